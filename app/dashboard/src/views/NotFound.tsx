import { EmptyState, useTitle } from "../components/primitives";

export function NotFound() {
  useTitle("Not found");
  return (
    <EmptyState title="There is no such page">
      <p>
        Perhaps the link is older than what it points to. <a href="/ui/">All jobs</a> are a good place to start again.
      </p>
    </EmptyState>
  );
}
