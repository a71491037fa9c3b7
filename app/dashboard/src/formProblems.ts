// What is wrong with a form, by field.

export interface Problem {
  /** Dotted path of the field in the request; null if the problem concerns the whole form. */
  param: string | null;
  message: string;
}

/** Returns the path of the field that shows a problem: the field itself or the nearest one around it. */
export function ownerOf(param: string | null, paths: Iterable<string>): string | null {
  if (!param) return null;
  let owner: string | null = null;
  for (const path of paths) {
    const isAround = param === path || param.startsWith(`${path}.`) || param.startsWith(`${path}[`);
    if (isAround && path.length > (owner?.length ?? -1)) owner = path;
  }
  return owner;
}

/** Returns a message of the API as it reads at its field: without the field's path and the value that was sent. */
export function plainMessage(message: string, param: string | null): string {
  if (!param) return message;
  const [, quoted, rest] = /^(['`])([^'`]+)\1 (.*)$/s.exec(message)?.slice(1) ?? [];
  if (quoted !== param || rest === undefined) return message;
  const should = /^should (.*?)(?:; you sent .*)?\.?$/s.exec(rest)?.[1];
  if (should !== undefined) return `Must ${should}.`;
  const invalid = /^is not valid: (.*)$/s.exec(rest)?.[1];
  if (invalid !== undefined) return sentence(invalid);
  const missing = /^is missing(?:: |; )(.*)$/s.exec(rest)?.[1];
  if (missing !== undefined) return missing === "add it." ? "Required." : `Required: ${missing}`;
  return sentence(rest.startsWith("is ") || rest.startsWith("must ") ? `this field ${rest}` : rest);
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
