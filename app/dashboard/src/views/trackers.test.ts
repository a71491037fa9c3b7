import { describe, expect, it } from "vitest";
import { setTrackerSetting, TRACKERS, toggleTracker, withoutUnset } from "./trackers";

const [wandb, mlflow, , tensorboard] = TRACKERS as [
  (typeof TRACKERS)[0],
  (typeof TRACKERS)[0],
  (typeof TRACKERS)[0],
  (typeof TRACKERS)[0],
];

describe("the trackers of a job", () => {
  it("come with the name that they need, and go", () => {
    const both = toggleTracker(toggleTracker([], mlflow), tensorboard);
    expect(both).toEqual([{ type: "mlflow", mlflow: { experiment: "grouptune" } }, { type: "tensorboard" }]);
    expect(toggleTracker(both, mlflow)).toEqual([{ type: "tensorboard" }]);
  });
  it("lose an emptied setting, but for the one that they need", () => {
    const made = setTrackerSetting(toggleTracker([], wandb), wandb, "entity", "team");
    expect(made).toEqual([{ type: "wandb", wandb: { project: "grouptune", entity: "team" } }]);
    expect(setTrackerSetting(setTrackerSetting(made, wandb, "entity", ""), wandb, "project", "")).toEqual([
      { type: "wandb", wandb: { project: "" } },
    ]);
  });
  it("are cloned without what was not withoutUnset", () => {
    const shown = [
      { type: "wandb", wandb: { project: "p", name: null, entity: null, tags: [] } },
      { type: "tensorboard" },
    ];
    expect(withoutUnset(shown)).toEqual([{ type: "wandb", wandb: { project: "p" } }, { type: "tensorboard" }]);
  });
});
