// Code that uses a model: with this server's URL, ready to copy.
import type { ModelDetails } from "./types";

/** Ranks that vLLM's `--max-lora-rank` accepts. */
const VLLM_RANKS = [1, 8, 16, 32, 64, 128, 256, 320, 512];
const KEY = '-H "Authorization: Bearer $GROUPTUNE_API_KEY"';

export interface Snippet {
  title: string;
  text: string;
}

/** Returns one snippet for each way to use the model; `origin` is this server's URL, `ollama` a finished export. */
export function modelSnippets(model: ModelDetails, origin: string, ollama: string | undefined): Snippet[] {
  const own = [
    { title: "Python", text: python(model.id, origin) },
    { title: "curl", text: curl(model.id, origin) },
  ];
  if (!model.base_model) return own;
  return [
    ...own,
    { title: "vLLM", text: vllm(model, origin) },
    { title: "Ollama", text: fromOllama(model.id, origin, ollama) },
  ];
}

function python(model: string, origin: string): string {
  return `import os

from openai import OpenAI

client = OpenAI(
    base_url="${origin}/v1",
    api_key=os.environ["GROUPTUNE_API_KEY"],
)
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "..."}],
)
print(answer.choices[0].message.content)`;
}

function curl(model: string, origin: string): string {
  return `curl ${origin}/v1/chat/completions ${KEY} \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "..."}]}'`;
}

/** Returns a directory name, and the name of the model on another server. */
const plainName = (id: string): string => id.replace(/^ft:/, "").replace(/[^A-Za-z0-9._-]+/g, "-");

function vllm({ id, base, base_model, rank }: ModelDetails, origin: string): string {
  const name = plainName(id);
  const revision = base?.revision ? ` --revision ${base.revision}` : "";
  const source = base?.hub_id ? `${base.hub_id}${revision}` : `path/to/${base_model}`;
  const fitting = VLLM_RANKS.find((allowed) => allowed >= (rank ?? 16)) ?? rank;
  return `mkdir ${name}
curl ${origin}/v1/models/${encodeURIComponent(id)}/download ${KEY} | tar -x -C ${name}
vllm serve ${source} --enable-lora --max-lora-rank ${fitting} \\
  --lora-modules ${name}=$PWD/${name}`;
}

function fromOllama(id: string, origin: string, ready: string | undefined): string {
  const name = plainName(id).toLowerCase();
  const made = ready
    ? ""
    : `# create an export in the format "ollama" first: on this page, or with
#   curl ${origin}/v1/models/${encodeURIComponent(id)}/exports ${KEY} \\
#     -H "Content-Type: application/json" -d '{"format": "ollama", "quantization": "q8_0"}'
`;
  return `${made}mkdir ${name}
curl ${origin}/v1/exports/${ready ?? "export-..."}/content ${KEY} | tar -x -C ${name}
cd ${name}
ollama create ${name} -f Modelfile
ollama run ${name}`;
}
