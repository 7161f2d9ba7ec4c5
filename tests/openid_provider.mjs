// npm's oidc-provider on a free port of loopback. Reads one line of JSON (client, secret, redirect), writes its issuer, ends with its stdin.
import { createServer } from "node:http";
import { createInterface } from "node:readline";

const { Provider } = await import(process.argv[2]);
const lines = createInterface({ input: process.stdin });
lines.once("line", (line) => {
  const { client, secret, redirect } = JSON.parse(line);
  const server = createServer();
  server.listen(0, "127.0.0.1", () => {
    const issuer = `http://127.0.0.1:${server.address().port}`;
    const provider = new Provider(issuer, {
      clients: [
        {
          client_id: client,
          client_secret: secret,
          redirect_uris: [redirect],
          grant_types: ["authorization_code", "refresh_token"],
        },
      ],
      claims: {
        openid: ["sub"],
        profile: ["preferred_username", "groups"],
        email: ["email", "email_verified"],
      },
      issueRefreshToken: async () => true,
      findAccount: async (_, id) => ({
        accountId: id,
        claims: async () => ({
          sub: id,
          preferred_username: id,
          groups: id === "ann" ? ["physics"] : ["astrophysics"],
          email: `${id}@example.org`,
          email_verified: id === "ann",
        }),
      }),
    });
    server.on("request", provider.callback());
    console.log(issuer);
  });
});
lines.once("close", () => process.exit(0));
