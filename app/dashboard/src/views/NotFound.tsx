// The page for unknown paths.
import { EmptyState, useTitle } from "../components/primitives";

export function NotFound() {
  useTitle("Not found");
  return (
    <EmptyState title="Page not found">
      <p>
        The page may have been removed. Go to the <a href="/ui/">list of jobs</a>.
      </p>
    </EmptyState>
  );
}
