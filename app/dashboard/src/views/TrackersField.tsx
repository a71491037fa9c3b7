// Experiment trackers that also receive the job's metrics, with their settings.
import { useContext } from "preact/hooks";
import { TextField } from "../components/FormFields";
import { SessionContext } from "../session";
import { type Integration, setTrackerSetting, settingsOf, TRACKERS, toggleTracker } from "./trackers";

export function TrackersField({ value, set }: { value: Integration[]; set: (value: Integration[]) => void }) {
  const usable = useContext(SessionContext)?.trackers ?? [];
  const isSelected = (type: string) => value.some((integration) => integration.type === type);
  // Also those of a cloned job, so that they can be removed.
  const shown = TRACKERS.filter(({ type }) => usable.includes(type) || isSelected(type));
  const names = shown.filter(({ type }) => isSelected(type)).map(({ title }) => title);
  return (
    <details>
      <summary>Trackers{names.length > 0 && `: ${names.join(", ")}`}</summary>
      <p class="soft">
        The dashboard always shows the metrics.{" "}
        {shown.length
          ? "They are also sent to the selected trackers. The operator adds others"
          : "This server has no other trackers. The operator adds Weights & Biases, MLflow, Trackio or TensorBoard"}{" "}
        with <code>pip install 'grouptune[trackers]'</code> and <code>GROUPTUNE_TRACKERS</code> (
        <a href="/docs/trackers.html">trackers</a>).
      </p>
      <div class="choices">
        {shown.map((tracker) => {
          const selected = value.find((integration) => integration.type === tracker.type);
          return (
            <div key={tracker.type}>
              <label class={selected ? "chosen" : ""}>
                <input
                  type="checkbox"
                  checked={selected !== undefined}
                  onChange={() => set(toggleTracker(value, tracker))}
                />
                {tracker.title}
              </label>
              {selected && tracker.fields.length > 0 && (
                <div class="row wrap">
                  {tracker.fields.map(([name, title]) => (
                    <TextField
                      key={name}
                      kind="text"
                      label={title}
                      name={`${tracker.title}: ${title}`}
                      value={String(settingsOf(selected)[name] ?? "")}
                      set={(text) => set(setTrackerSetting(value, tracker, name, text))}
                    />
                  ))}
                </div>
              )}
            </div>
          );
        })}
      </div>
    </details>
  );
}
