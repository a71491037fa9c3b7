// Types of the API's objects; schema.d.ts is generated from the OpenAPI document (`make web-check`).
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Job = Schemas["JobObject"];
export type JobEvent = Schemas["EventObject"];
export type Checkpoint = Schemas["CheckpointObject"];
export type JobLog = Schemas["JobLog"];
export type Attempt = Schemas["AttemptObject"];
export type Series = Schemas["MetricSeries"];
export type FileObject = Schemas["FileObject"];
export type SuggestedGrader = Schemas["SuggestedGrader"];
export type SuggestedMethod = Schemas["SuggestedMethod"];
export type FileLint = Schemas["FileLint"];
export type ConvertedRows = Schemas["ConvertedRows"];
export type FileReport = Schemas["FileReportObject"];
export type Model = Schemas["ModelObject"];
export type BaseModel = Schemas["BaseModelObject"];
export type BaseModels = Schemas["BaseModelList"];
export type ModelDetails = Schemas["ModelDetails"];
export type ModelLineage = Schemas["ModelLineage"];
export type ExportFormat = Schemas["ExportFormat"];
export type Quantization = Schemas["Quantization"];
export type ModelExport = Schemas["ExportObject"];
export type EvalObject = Schemas["EvalObject"];
export type EvalRun = Schemas["EvalRunObject"];
export type EvalItem = Schemas["OutputItemObject"];
export type RunComparison = Schemas["RunComparisonObject"];
export type RunMeans = Schemas["PairedMeansObject"];
export type AliasObject = Schemas["AliasObject"];
export type Permission = Schemas["PermissionObject"];
export type DataFile = Schemas["DataFile"];
export type GraderRun = Schemas["GraderRun"];
export type FileRow = Schemas["FileRow"];
export type FileRows = Schemas["FileRows"];
export type TeacherKey = Schemas["TeacherKeyObject"];
export type Key = Schemas["KeyObject"];
export type NewKey = Schemas["NewKeyObject"];
export type AuditEntry = Schemas["AuditObject"];
export type Session = Schemas["SessionObject"];
export type Endpoint = Schemas["EndpointObject"];
export type NewEndpoint = Schemas["NewEndpointObject"];
export type Delivery = Schemas["DeliveryObject"];
export type JobEstimate = Schemas["EstimateObject"];
export type EstimateRange = Schemas["Range"];
export type FilePreview = Schemas["FilePreview"];
export type PreviewRow = Schemas["PreviewRow"];
export type TokenDistribution = Schemas["TokenDistribution"];
export type Lint = Schemas["LintReport"];
export type JobLint = Schemas["JobLint"];
export type Worker = Schemas["WorkerObject"];
export type Validation = Schemas["Validation"];
export type RowUse = Schemas["RowUse"];
export type UsagePage = Schemas["UsagePage"];
export type UsageResult = Schemas["UsageResult"];
export type Regraded = Schemas["Regraded"];
export type RegradedGroup = Schemas["RegradedGroupObject"];

export interface Page<T> {
  data: T[];
  has_more: boolean;
  last_id: string | null;
}

export type Source = "expert" | "teacher" | "self" | "preferred" | "non_preferred";

/** Origin of a teacher answer. For an answer from the training file at most the model is given. */
export interface Provenance {
  model: string | null;
  provider: string;
  answered_at: string | null;
  cached: boolean;
  prompt_tokens: number | null;
  completion_tokens: number | null;
}

/** One answer of a group. */
export interface Member {
  scores?: Record<string, number>;
  source: Source;
  text: string;
  tokens: number;
  reward: number | null;
  advantage: number | null;
  rectified_frac: number | null;
  mean_p: number | null;
  finished: boolean;
  adapter_version: number | null;
  /** Set for teacher answers; absent in groups that older versions stored. */
  teacher?: Provenance | null;
  /** Number of the row's trained turn, from 1; absent in groups that older versions stored. */
  turn?: number | null;
  error: string | null;
}

export interface Group {
  id: string;
  step: number;
  idx: number;
  row: number;
  prompt: string;
  members: Member[];
  zero_variance: boolean;
}

export interface Groups {
  step: number | null;
  steps: number[];
  data: Group[];
  has_more: boolean;
  last_id: string | null;
}

export interface Finding {
  /** null if it concerns the whole file. */
  line: number | null;
  param: string | null;
  message: string;
}
