// A form for one grader, made from the schema of its type.
import { Field } from "../components/FormFields";
import { SchemaInput } from "../components/SchemaInput";
import { fieldsOf, type SchemaField, type Schemas, titleOf, valueAt, withValue } from "../schemaFields";
import { type Grader, graderFromTemplate, withType } from "./graderTemplates";

/** Fields that most graders leave at their default. */
const RARE = /^(name|pass_threshold|image_tag|batch_size|timeout_seconds|sampling_params\..*)$/;
/** Fields whose template most often is a field of the row. */
const FROM_ROW = ["reference", "entry"];
const TYPES: Record<string, string> = {
  string_check: "Text check",
  text_similarity: "Text similarity",
  math: "Math",
  regex: "Pattern",
  json_schema: "JSON schema",
  reasoning_gym: "The verifier in the row",
  python: "Python",
  score_model: "Judge: score",
  label_model: "Judge: label",
  endpoint: "Your own server",
  multi: "Several graders",
};

interface Props {
  schemas: Schemas;
  value: Grader;
  set: (value: Grader) => void;
  /** Path of the grader in the request. */
  path: string;
  /** Fields that every row has. */
  fields: string[];
  /** Name of a part of a multi grader; its inputs have it in their names. */
  part?: string;
}

/** Returns the schema of each grader type. */
function graderTypes(schemas: Schemas, isPart: boolean): Record<string, string> {
  const whole = schemas.RunGrader?.properties?.grader?.discriminator?.mapping ?? {};
  return Object.fromEntries(Object.entries(whole).filter(([type]) => !isPart || type !== "multi"));
}

export function GraderForm({ schemas, value, set, path, fields, part }: Props) {
  const types = graderTypes(schemas, part !== undefined);
  const type = String(value.type ?? "");
  const schema = types[type] ? { $ref: types[type] } : undefined;
  const all = schema ? fieldsOf(schemas, schema).filter((field) => field.path !== "type") : [];
  const isRare = (field: SchemaField) => RARE.test(field.path) || (field.path === "input" && field.kind === "long");
  const named = (title: string) => (part === undefined ? title : `${part}: ${title}`);
  const input = (field: SchemaField) => {
    const own = `${path}.${field.path}`;
    const setValue = (changed: unknown) => set(withValue(value, field.path, changed));
    const held = valueAt(value, field.path);
    if (field.path === "input" && Array.isArray(held) && held.every(isTextMessage))
      return <MessagesInput key={field.path} value={held} set={setValue} path={own} help={field.help} />;
    if (field.path === "graders") return <PartsInput key={field.path} {...{ schemas, value, set, path, fields }} />;
    return (
      <div key={field.path} class={field.kind === "long" || field.kind === "json" ? "span" : ""}>
        <SchemaInput field={field} value={held} set={setValue} path={own} name={named(field.title)} />
        {FROM_ROW.includes(field.path) && fields.length > 0 && (
          <p class="row insert">
            Use{" "}
            {fields.map((name) => (
              <button key={name} type="button" class="small" onClick={() => setValue(`{{item.${name}}}`)}>
                {`{{item.${name}}}`}
              </button>
            ))}
          </p>
        )}
      </div>
    );
  };
  const id = `${path}-type`;
  const rare = all.filter(isRare);
  return (
    <div class="grader-form">
      <Field label="Type" id={id} path={`${path}.type`} help={schema && schemas[lastOf(schema.$ref)]?.description}>
        {(described) => (
          <select
            id={id}
            aria-label={named("Grader type")}
            value={type}
            onChange={(event) => set(withType(value, event.currentTarget.value, fields))}
            {...described}
          >
            {!types[type] && <option value={type}>{type || "choose a type"}</option>}
            {Object.keys(types).map((name) => (
              <option key={name} value={name}>
                {TYPES[name] ?? titleOf(name)} ({name})
              </option>
            ))}
          </select>
        )}
      </Field>
      <div class="settings-grid">{all.filter((field) => !isRare(field)).map(input)}</div>
      {rare.length > 0 && (
        <details>
          <summary>{named("Name, threshold and more")}</summary>
          <div class="settings-grid">{rare.map(input)}</div>
        </details>
      )}
    </div>
  );
}

const lastOf = (reference: string): string => reference.split("/").pop() ?? "";

interface Message {
  role: string;
  content: string;
}

const isTextMessage = (message: unknown): message is Message =>
  typeof (message as Message | null)?.content === "string" && typeof (message as Message).role === "string";

function MessagesInput(props: { value: Message[]; set: (value: Message[]) => void; path: string; help: string }) {
  const { value, set, path, help } = props;
  const change = (index: number, changed: Partial<Message>) =>
    set(value.map((message, place) => (place === index ? { ...message, ...changed } : message)));
  return (
    <fieldset class="span">
      <legend>Messages to the judge</legend>
      {value.map((message, index) => (
        <Field key={index} label={`Message ${index + 1}`} id={`${path}-${index}`} path={`${path}.${index}`}>
          {(described) => (
            <>
              <div class="row">
                <select
                  aria-label={`Role of message ${index + 1}`}
                  value={message.role}
                  onChange={(event) => change(index, { role: event.currentTarget.value })}
                >
                  {["system", "user", "assistant", "developer"].map((role) => (
                    <option key={role}>{role}</option>
                  ))}
                </select>
                <button
                  type="button"
                  class="small"
                  disabled={value.length === 1}
                  aria-label={`Remove message ${index + 1}`}
                  onClick={() => set(value.filter((_, place) => place !== index))}
                >
                  Remove
                </button>
              </div>
              <textarea
                id={`${path}-${index}`}
                rows={3}
                value={message.content}
                onInput={(event) => change(index, { content: event.currentTarget.value })}
                {...described}
              />
            </>
          )}
        </Field>
      ))}
      <p class="help">
        {help} They may contain templates such as {"{{sample.output_text}}"}.
      </p>
      <button type="button" class="small" onClick={() => set([...value, { role: "user", content: "" }])}>
        Add a message
      </button>
    </fieldset>
  );
}

/** The parts of a multi grader, by the names that its formula uses. */
function PartsInput({ schemas, value, set, path, fields }: Omit<Props, "part">) {
  const parts = Object.entries((value.graders ?? {}) as Record<string, Grader>);
  const setParts = (changed: [string, Grader][]) => set({ ...value, graders: Object.fromEntries(changed) });
  const rename = (index: number, name: string) => {
    if (name && parts.every(([other], place) => place === index || other !== name))
      setParts(parts.map(([old, part], place) => (place === index ? [name, part] : [old, part])));
  };
  const add = () => {
    const names = new Set(parts.map(([name]) => name));
    let number = parts.length + 1;
    while (names.has(`part_${number}`)) number += 1;
    setParts([...parts, [`part_${number}`, { ...graderFromTemplate(0, fields), name: `part_${number}` }]]);
  };
  return (
    <fieldset class="span parts">
      <legend>Graders</legend>
      {parts.map(([name, part], index) => (
        <section key={index} class="part" aria-label={`Part ${name}`}>
          <div class="row between">
            <label class="row">
              Name in the formula
              <input
                type="text"
                value={name}
                pattern="[A-Za-z_]\w*"
                onChange={(event) => rename(index, event.currentTarget.value.trim())}
              />
            </label>
            <button
              type="button"
              class="small"
              disabled={parts.length === 1}
              aria-label={`Remove ${name}`}
              onClick={() => setParts(parts.filter((_, place) => place !== index))}
            >
              Remove
            </button>
          </div>
          <GraderForm
            schemas={schemas}
            value={part}
            set={(changed) => setParts(parts.map(([old, own], place) => [old, place === index ? changed : own]))}
            path={`${path}.graders.${name}`}
            fields={fields}
            part={name}
          />
        </section>
      ))}
      <button type="button" class="small" onClick={add}>
        Add a grader
      </button>
    </fieldset>
  );
}
