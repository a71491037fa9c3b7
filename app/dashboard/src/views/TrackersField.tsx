// Experiment trackers that also receive the job's metrics, with their settings.
import { TextField } from "../components/FormFields";
import { type Integration, setTrackerSetting, settingsOf, TRACKERS, toggleTracker } from "./trackers";

export function TrackersField({ value, set }: { value: Integration[]; set: (value: Integration[]) => void }) {
  const names = TRACKERS.filter(({ type }) => value.some((integration) => integration.type === type)).map(
    (integration) => integration.title,
  );
  return (
    <details>
      <summary>Trackers{names.length > 0 && `: ${names.join(", ")}`}</summary>
      <p class="soft">
        The dashboard always shows the metrics. They are also sent to the selected trackers that the operator has set
        up.
      </p>
      <div class="choices">
        {TRACKERS.map((tracker) => {
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
