// A mail provider that signs users in: oauth2-mock-server, which others maintain, with the claims that a mail provider's
// tokens have. Whoever the page expects (login_hint) signs in at once; `denied@…` takes the other button.

import { createPublicKey } from "node:crypto";
import { createRequire } from "node:module";

const [modules, keyFile, certificateFile, port, life] = process.argv.slice(2);
const { OAuth2Server } = createRequire(`${modules}/`)("oauth2-mock-server");

const server = new OAuth2Server(keyFile, certificateFile);
const { kid } = await server.issuer.keys.generate("RS256");
const addresses = new Map();
/** Whose code or refresh token it is. */
const addressOf = ({ body }) => addresses.get(body.code ?? body.refresh_token);

server.service.on("beforeAuthorizeRedirect", ({ url }, { query }) => {
  if (query.login_hint?.startsWith("denied@")) {
    url.searchParams.delete("code");
    url.searchParams.set("error", "access_denied");
  }
  addresses.set(url.searchParams.get("code"), query.login_hint);
});
server.service.on("beforeTokenSigning", (token, request) => {
  token.payload.email = addressOf(request);
  // Dovecot's clock stands still while it works.
  token.payload.iat -= 10;
  token.payload.nbf = token.payload.iat;
  token.payload.exp = token.payload.iat + 10 + Number(life);
});
server.service.on("beforeResponse", ({ body }, request) => {
  // What was consented to is what was asked for.
  delete body.scope;
  body.expires_in = Number(life);
  addresses.set(body.refresh_token, addressOf(request));
});
server.service.on("beforeUserinfo", (response) => {
  response.statusCode = 404;
});

await server.start(Number(port), "localhost");
const publicKey = createPublicKey({ key: server.issuer.keys.toJSON().find((key) => key.kid === kid), format: "jwk" });
console.log(`ready ${JSON.stringify({ kid, pem: publicKey.export({ type: "spki", format: "pem" }) })}`);
