// An answer token by token, coloured by the probability of each token.
import { tokenTexts } from "./answers";
import type { TokenLogprob } from "./chatStream";

/** Lower bounds of the bands, from the most probable; what is below belongs to the last band. */
const BANDS = [0.9, 0.6, 0.3, 0.1];

const band = (probability: number): number => {
  const index = BANDS.findIndex((bound) => probability >= bound);
  return index < 0 ? BANDS.length : index;
};
const percent = (logprob: number): string => `${(Math.exp(logprob) * 100).toPrecision(3)} %`;

export function Tokens({ tokens }: { tokens: TokenLogprob[] }) {
  const texts = tokenTexts(tokens);
  return (
    <div class="text">
      {tokens.map((token, index) => (
        <span key={index} class={`p${band(Math.exp(token.logprob))}`} title={description(token)}>
          {texts[index]}
        </span>
      ))}
    </div>
  );
}

function description({ token, logprob, top_logprobs }: TokenLogprob): string {
  const others = (top_logprobs ?? []).filter((other) => other.token !== token);
  const lines = others.map((other) => `${JSON.stringify(other.token)} ${percent(other.logprob)}`);
  return [`${JSON.stringify(token)} ${percent(logprob)}`, ...lines].join("\n");
}

export function ProbabilityLegend() {
  const bounds = [...BANDS.map((bound) => `≥ ${bound * 100} %`), "less"];
  return (
    <small class="probabilities">
      {bounds.map((text, index) => (
        <span key={text} class={`p${index}`}>
          {text}
        </span>
      ))}
    </small>
  );
}
