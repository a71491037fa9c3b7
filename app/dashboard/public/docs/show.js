// A separate file, because the page's content security policy forbids inline scripts.
// The document names no server: requests go to where this page comes from, whatever the path prefix of a proxy.
const server = new URL(".", location.href).pathname.replace(/\/$/, "");
fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) =>
    SwaggerUIBundle({
      spec: { ...spec, servers: [{ url: server || "/" }] },
      dom_id: "#reference",
      deepLinking: true,
      docExpansion: "list",
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      filter: true,
      tryItOutEnabled: false,
    }),
  );
