// The formats of exports in words, and the quantizations that each one offers, its default first.

interface Format {
  title: string;
  text: string;
  quantizations?: string[];
}

const GGUF = ["q8_0", "q4_k_m", "f16", "bf16"];

const FORMATS: Record<string, Format> = {
  merged: { title: "Merged", text: "One plain transformers model: the adapter merged into its base model." },
  gguf: { title: "GGUF", text: "The merged model for llama.cpp.", quantizations: GGUF },
  "gguf-lora": { title: "GGUF adapter", text: "The adapter alone for llama.cpp, next to a GGUF of the base model." },
  ollama: { title: "Ollama", text: "A directory for `ollama create`: GGUF and Modelfile.", quantizations: GGUF },
  push: { title: "Hugging Face hub", text: "The adapter in a repository of the hub, with a model card." },
};

export const formatOf = (name: string): Format => FORMATS[name] ?? { title: name, text: "" };
