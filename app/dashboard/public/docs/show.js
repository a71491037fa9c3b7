// A separate file, because the page's content security policy forbids inline scripts.
// The document names no server: requests go to where this page comes from, whatever the path prefix of a proxy.
const server = new URL("../..", location.href).pathname.replace(/\/$/, "");
// Swagger UI puts a link into a button, which screen readers cannot reach, and has selections without a label.
const Accessible = ({ React: { createElement } }) => {
  const labelled = (Original) => (props) =>
    createElement(
      "label",
      null,
      createElement("span", { className: "unseen" }, props.description || "Value"),
      createElement(Original, props),
    );
  return {
    components: {
      DeepLink: ({ text, children }) => createElement("span", null, text ?? children),
      ServersContainer: () => null, // only this server
    },
    wrapComponents: { JsonSchema_boolean: labelled, JsonSchema_string: labelled },
  };
};
// Collections come first, then their objects and parts. Operations of equal depth keep the order of the document.
const depth = (operation) => operation.get("path").split("/").length;
fetch("../../openapi.json")
  .then((response) => response.json())
  .then((spec) =>
    SwaggerUIBundle({
      spec: { ...spec, servers: [{ url: server || "/" }] },
      dom_id: "#reference",
      plugins: [Accessible],
      deepLinking: true,
      docExpansion: "list",
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      filter: true,
      operationsSorter: (one, other) => depth(one) - depth(other),
      tryItOutEnabled: false,
    }),
  );
