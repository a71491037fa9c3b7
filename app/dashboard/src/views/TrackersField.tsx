// Which trackers get a job's metrics as well, and under which names.
import { TextField } from "../components/FormFields";
import { type Integration, setTrackerSetting, settingsOf, TRACKERS, toggleTracker } from "./trackers";

export function TrackersField({ value, set }: { value: Integration[]; set: (value: Integration[]) => void }) {
  const names = TRACKERS.filter(({ type }) => value.some((one) => one.type === type)).map((one) => one.title);
  return (
    <details>
      <summary>Trackers{names.length > 0 && `: ${names.join(", ")}`}</summary>
      <p class="soft">
        Metrics are here in any case. They go to these as well, where the server's operator has set them up.
      </p>
      <div class="choices">
        {TRACKERS.map((tracker) => {
          const mine = value.find((one) => one.type === tracker.type);
          return (
            <div key={tracker.type}>
              <label class={mine ? "chosen" : ""}>
                <input
                  type="checkbox"
                  checked={mine !== undefined}
                  onChange={() => set(toggleTracker(value, tracker))}
                />
                {tracker.title}
              </label>
              {mine && tracker.fields.length > 0 && (
                <div class="row wrap">
                  {tracker.fields.map(([name, title]) => (
                    <TextField
                      key={name}
                      kind="text"
                      label={title}
                      name={`${tracker.title}: ${title}`}
                      value={String(settingsOf(mine)[name] ?? "")}
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
