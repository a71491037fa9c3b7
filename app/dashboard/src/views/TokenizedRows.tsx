// The rows of a file as tokens: which tokens are trained, and how long the rows are.
import { useState } from "preact/hooks";
import { type ApiError, get, query } from "../api";
import { ErrorNotice, Loading, SourceChip } from "../components/primitives";
import { plural } from "../format";
import { useGet } from "../liveData";
import type { FilePreview, Model, PreviewRow, TokenDistribution } from "../types";

const PAGE = 6;

export function TokenizedRows({ id }: { id: string }) {
  const models = useGet<{ data: Model[] }>("/v1/models");
  const [model, setModel] = useState("");
  const [later, setLater] = useState<{ of: FilePreview; rows: PreviewRow[]; hasMore: boolean }>();
  const [failed, setFailed] = useState<ApiError>();
  const path = query(`/v1/files/${id}/preview`, { model, limit: PAGE });
  const { value, error } = useGet<FilePreview>(path);
  const bases = (models.value?.data ?? []).filter((base) => !base.base_model);
  if (error && !value) return <ErrorNotice error={error} />;
  if (!value) return <Loading what="the tokens" />;
  const more = later?.of === value ? later : undefined;
  const rows = [...value.data, ...(more?.rows ?? [])];
  const load = () =>
    get<FilePreview>(query(`/v1/files/${id}/preview`, { model, limit: PAGE, after: rows.at(-1)?.line })).then(
      (next) => setLater({ of: value, rows: [...(more?.rows ?? []), ...next.data], hasMore: next.has_more }),
      setFailed,
    );
  return (
    <section aria-label="Rows">
      <div class="row between">
        <h2>Tokenized rows</h2>
        <label class="row">
          Tokenizer of
          <select value={model || value.model} onChange={(event) => setModel(event.currentTarget.value)}>
            {bases.map(({ id: base }) => (
              <option key={base}>{base}</option>
            ))}
          </select>
        </label>
      </div>
      {value.lengths && <Lengths preview={value} />}
      <p class="soft">
        <span class="token trained">trained</span> <span class="token">context only</span> · hover over a token for its
        id
      </p>
      {rows.map((row) => (
        <TokenRow key={row.line} row={row} />
      ))}
      {failed && <ErrorNotice error={failed} />}
      {(more ? more.hasMore : value.has_more) && (
        <button type="button" onClick={() => void load()}>
          Show more rows
        </button>
      )}
    </section>
  );
}

function TokenRow({ row }: { row: PreviewRow }) {
  return (
    <article class="talk" aria-label={`Row of line ${row.line}`}>
      <span class="soft">Line {row.line}</span>
      {row.error && <p class="problem">{row.error}</p>}
      {row.spans.map((span, index) => (
        <div key={index} class="turn tokens">
          <span>
            {span.source === "prompt" ? <span class="chip">prompt</span> : <SourceChip source={span.source} />}{" "}
            <small>{plural(span.tokens, "token")}</small>
            {!span.fits && <small class="problem">✕ too long, not used</small>}
          </span>
          <span>
            {span.texts.map((text, at) => (
              <span key={at} class={span.mask[at] ? "token trained" : "token"} title={`${span.ids[at]}`}>
                {text}
              </span>
            ))}
            {span.tokens > span.texts.length && " …"}
          </span>
        </div>
      ))}
    </article>
  );
}

function Lengths({ preview }: { preview: FilePreview }) {
  const { lengths, max_length: limit } = preview;
  if (!lengths?.row) return null;
  const isSample = lengths.measured_rows < lengths.rows;
  return (
    <div class="lengths">
      <Histogram title="Prompt with longest answer" of={lengths.row} />
      {lengths.response && <Histogram title="Each answer" of={lengths.response} />}
      <p class={lengths.too_long ? "problem" : "soft"}>
        {lengths.too_long
          ? `✕ ${plural(lengths.too_long, "row")} of ${lengths.measured_rows.toLocaleString("en-US")} measured exceed ${limit.toLocaleString("en-US")} tokens; training skips their long answers. The longest: ${lengths.longest_too_long
              .slice(0, 5)
              .map((row) => `line ${row.line} (${row.tokens.toLocaleString("en-US")})`)
              .join(", ")}.`
          : `✓ All ${plural(lengths.measured_rows, "measured row")} are within ${limit.toLocaleString("en-US")} tokens.`}
        {isSample && ` Only a sample of ${plural(lengths.rows, "row")} was measured.`}
      </p>
    </div>
  );
}

function Histogram({ title, of }: { title: string; of: TokenDistribution }) {
  const most = Math.max(1, ...of.bins.map((bin) => bin.count));
  return (
    <figure class="chart histogram">
      <figcaption>
        <h3>
          {title} <small>tokens</small>
        </h3>
        <span class="at">
          median {of.median}, 95 % up to {of.p95}, longest {of.max}
        </span>
      </figcaption>
      <div class="bins" role="img" aria-label={`${title}: median ${plural(of.median, "token")}, longest ${of.max}`}>
        {of.bins.map((bin) => (
          <i
            key={bin.start}
            style={{ height: `${(bin.count / most) * 100}%` }}
            title={`${bin.start} to ${bin.end - 1} tokens: ${plural(bin.count, "row")}`}
          />
        ))}
      </div>
      <div class="ticks" aria-hidden="true">
        <span>{of.bins[0]?.start ?? 0}</span>
        <span>{of.bins.at(-1)?.end ?? 0}</span>
      </div>
    </figure>
  );
}
