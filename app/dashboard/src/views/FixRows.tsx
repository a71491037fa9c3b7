// Editor for the invalid lines of a file; uploads the corrected file as a new file.

import { useState } from "preact/hooks";
import type { ApiError } from "../api";
import { ErrorNotice } from "../components/primitives";
import { applyChanges, type FileLines, rowProblem } from "../dataFile";
import { plural } from "../format";
import { useLocation } from "../root";
import type { Finding } from "../types";
import { upload } from "../uploads";

interface Props {
  findings: Finding[];
  /** Number of all errors; the report lists only the first ones. */
  count: number;
  /** The content of the file; undefined while it loads. */
  read: FileLines | undefined;
  writes: boolean;
  filename: string;
}

export function FixRows({ findings, count, read, writes, filename }: Props) {
  const [changes, setChanges] = useState<ReadonlyMap<number, string | null>>(new Map());
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const { route } = useLocation();
  const ofFile = findings.filter((finding) => finding.line === null);
  const numbers = [...new Set(findings.flatMap(({ line }) => (line === null ? [] : [line])))];
  const change = (line: number, text: string | null) => setChanges(new Map([...changes, [line, text]]));
  const canFix = writes && read?.isWhole === true && count === findings.length;
  const send = () => {
    if (!read) return;
    setBusy(true);
    setError(undefined);
    upload(new File([applyChanges(read.lines, changes)], filename), () => undefined)
      .then(({ file }) => route(`/ui/files/${file.id}`), setError)
      .finally(() => setBusy(false));
  };
  return (
    <section class="findings bad">
      <h2>{plural(count, "error")}</h2>
      {ofFile.map((finding) => (
        <p key={finding.message}>
          <FindingText finding={finding} />
        </p>
      ))}
      {numbers.length > 0 && (
        <p>
          {canFix
            ? "Correct these lines or remove them. The corrected file is uploaded as a new file."
            : "Correct these lines in your file, then upload it again."}
        </p>
      )}
      <ol>
        {numbers.map((line) => (
          <li key={line}>
            {findings
              .filter((finding) => finding.line === line)
              .map((finding) => (
                <p key={finding.message}>
                  <FindingText finding={finding} />
                </p>
              ))}
            {canFix ? (
              <Editor
                line={line}
                text={changes.get(line)}
                original={read.lines[line - 1] ?? ""}
                change={(text) => change(line, text)}
              />
            ) : (
              read?.lines[line - 1] !== undefined && (
                <pre tabIndex={0} role="region" aria-label={`Line ${line}`}>
                  {read.lines[line - 1]?.slice(0, 600)}
                </pre>
              )
            )}
          </li>
        ))}
      </ol>
      {count > findings.length && <p>And {plural(count - findings.length, "more")}.</p>}
      {error && <ErrorNotice error={error} />}
      {canFix && numbers.length > 0 && (
        <p>
          <button type="button" class="primary" disabled={!changes.size || busy} onClick={send}>
            {busy ? "Uploading …" : "Upload the corrected file"}
          </button>
        </p>
      )}
    </section>
  );
}

/** A finding with its place: a line, or the whole file. */
export function FindingText({ finding: { line, param, message } }: { finding: Finding }) {
  if (line === null) return <WithCode text={`${message.charAt(0).toUpperCase()}${message.slice(1)}.`} />;
  return (
    <>
      <b>Line {line}</b>
      {param && (
        <>
          , <code>{param}</code>
        </>
      )}
      : <WithCode text={message} />
    </>
  );
}

/** A message of the server, with names in backticks as code. */
function WithCode({ text }: { text: string }) {
  return <>{text.split("`").map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part))}</>;
}

interface EditorProps {
  line: number;
  text: string | null | undefined;
  original: string;
  change: (text: string | null) => void;
}

function Editor({ line, text, original, change }: EditorProps) {
  const isRemoved = text === null;
  const shown = text ?? original;
  const problem = isRemoved || text === undefined ? null : rowProblem(shown);
  return (
    <>
      <textarea
        aria-label={`Line ${line}`}
        rows={Math.min(8, Math.ceil(shown.length / 110) + 1)}
        spellcheck={false}
        disabled={isRemoved}
        value={shown}
        onInput={(event) => change(event.currentTarget.value.replaceAll("\n", " "))}
      />
      <div class="row">
        <label class="row">
          <input type="checkbox" checked={isRemoved} onChange={() => change(isRemoved ? original : null)} /> Remove this
          line
        </label>
        {text !== undefined && !isRemoved && (
          <span class={problem ? "problem" : "good"} role="status">
            {problem ?? "✓ Valid JSON object."}
          </span>
        )}
      </div>
    </>
  );
}
