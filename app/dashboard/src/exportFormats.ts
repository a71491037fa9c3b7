// The formats of exports in words, and the number formats that each one offers, its default first.
import type { ExportFormat, Quantization } from "./types";

interface Format {
  title: string;
  text: string;
  quantizations?: Quantization[];
}

const ALL: Quantization[] = ["q8_0", "q4_k_m", "f16", "bf16"];

export const FORMATS: Record<ExportFormat, Format> = {
  merged: { title: "Merged", text: "One plain transformers model: the adapter merged into its base model." },
  gguf: { title: "GGUF", text: "The merged model for llama.cpp and LM Studio.", quantizations: ALL },
  "gguf-lora": { title: "GGUF adapter", text: "The adapter alone for llama.cpp, next to a GGUF of the base model." },
  ollama: { title: "Ollama", text: "A directory for `ollama create`: GGUF and Modelfile.", quantizations: ALL },
  push: { title: "Hugging Face hub", text: "A repository of the hub with a model card." },
};
