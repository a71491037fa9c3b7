// The chain from the base model to a trained model: parents, job and data files with their digests.
import type { ComponentChildren } from "preact";
import { CopyButton } from "../components/primitives";
import { modelPage, nameParts } from "../modelNames";
import type { DataFile, ModelDetails } from "../types";

export function ModelLineage({ model }: { model: ModelDetails }) {
  const { lineage, base } = model;
  const parents = [...(lineage?.parents ?? [])].reverse();
  return (
    <section aria-label="Lineage">
      <h2>Lineage</h2>
      <ol class="chain">
        <Link icon="●" kind="Base model">
          {base ? <a href={modelPage(base.name)}>{base.name}</a> : model.base_model}
          {base?.hub_id && (
            <small>
              {base.hub_id}
              {base.revision && (
                <>
                  {" "}
                  at <code title={base.revision}>{base.revision.slice(0, 8)}</code>
                </>
              )}
            </small>
          )}
          {!base && <small>not on this server</small>}
        </Link>
        {parents.map((parent) => (
          <Link key={parent.id} icon="◆" kind="Trained further from">
            {parent.job_id ? <ModelLink id={parent.id} /> : <code>{parent.id}</code>}
            {parent.job_id ? <a href={`/ui/jobs/${parent.job_id}`}>its job</a> : <small>deleted</small>}
          </Link>
        ))}
        {lineage && (
          <Link icon="▶" kind="Job">
            <a href={`/ui/jobs/${model.job_id}`}>{lineage.method}</a>
            <small>seed {lineage.seed}</small>
            <dl>
              <dt>training</dt>
              <FileFacts file={lineage.training_file} />
              {lineage.validation_file && (
                <>
                  <dt>held-out</dt>
                  <FileFacts file={lineage.validation_file} />
                </>
              )}
              {lineage.test_file && (
                <>
                  <dt>test</dt>
                  <FileFacts file={lineage.test_file} />
                </>
              )}
            </dl>
          </Link>
        )}
        <Link icon="★" kind="This model">
          <b>{nameParts(model.id).title}</b>
          {model.step !== null && <small>step {model.step}</small>}
          {model.sha256 && <Digest of={model.sha256} what="weights" />}
        </Link>
      </ol>
    </section>
  );
}

function Link({ icon, kind, children }: { icon: string; kind: string; children: ComponentChildren }) {
  return (
    <li>
      <i aria-hidden="true">{icon}</i>
      <span class="soft">{kind}</span>
      <div>{children}</div>
    </li>
  );
}

function ModelLink({ id }: { id: string }) {
  const { title, detail } = nameParts(id);
  return (
    <span>
      <a href={modelPage(id)}>{title}</a> <small>{detail}</small>
    </span>
  );
}

function FileFacts({ file }: { file: DataFile }) {
  return (
    <dd>
      {file.filename ? <a href={`/ui/files/${file.id}`}>{file.filename}</a> : <small>{file.id}, deleted</small>}{" "}
      {file.sha256 && <Digest of={file.sha256} what="file" />}
    </dd>
  );
}

function Digest({ of, what }: { of: string; what: string }) {
  return (
    <span class="digest">
      <code title={`SHA-256 of the ${what}: ${of}`}>sha256 {of.slice(0, 12)}…</code> <CopyButton text={of} />
    </span>
  );
}
