import { describe, expect, it } from "vitest";
import { setTrackerSetting, TRACKERS, toggleTracker, withoutUnset } from "./trackers";

const [wandb, mlflow, , tensorboard] = TRACKERS as [
  (typeof TRACKERS)[0],
  (typeof TRACKERS)[0],
  (typeof TRACKERS)[0],
  (typeof TRACKERS)[0],
];

describe("the trackers of a job", () => {
  it("are added with defaults and removed", () => {
    const both = toggleTracker(toggleTracker([], mlflow), tensorboard);
    expect(both).toEqual([{ type: "mlflow", mlflow: { experiment: "grouptune" } }, { type: "tensorboard" }]);
    expect(toggleTracker(both, mlflow)).toEqual([{ type: "tensorboard" }]);
  });
  it("drop empty optional settings", () => {
    const integrations = setTrackerSetting(toggleTracker([], wandb), wandb, "entity", "team");
    expect(integrations).toEqual([{ type: "wandb", wandb: { project: "grouptune", entity: "team" } }]);
    expect(setTrackerSetting(setTrackerSetting(integrations, wandb, "entity", ""), wandb, "project", "")).toEqual([
      { type: "wandb", wandb: { project: "" } },
    ]);
  });
  it("are cloned without unset settings", () => {
    const shown = [
      { type: "wandb", wandb: { project: "p", name: null, entity: null, tags: [] } },
      { type: "tensorboard" },
    ];
    expect(withoutUnset(shown)).toEqual([{ type: "wandb", wandb: { project: "p" } }, { type: "tensorboard" }]);
  });
});
