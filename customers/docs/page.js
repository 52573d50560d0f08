// Opens the viewer on the first request of the README, and gets a token where the local issuer offers one.
"use strict";

const { issuer, client, scope, signedIn } = document.body.dataset;

const dark = matchMedia("(prefers-color-scheme: dark)");
const followColors = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followColors);
followColors();

if (!location.hash) history.replaceState(null, "", "#/beta/betaAdd");

// A link inside a button cannot be reached with every keyboard or screen reader. An open operation is in the address anyway.
const withoutLinksInButtons = ({ React }) => ({
  wrapComponents: { DeepLink: () => ({ text }) => React.createElement("span", null, text) },
});

const viewer = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#viewer",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [withoutLinksInButtons],
  deepLinking: true,
  docExpansion: "none",
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: "none",
  oauth2RedirectUrl: location.origin + signedIn,
});
// Public: the page has no secret, but a code verifier (RFC 7636).
if (client) viewer.initOAuth({ clientId: client, scopes: [scope], usePkceWithAuthorizationCodeGrant: true });

// What the viewer leaves without a name, or out of the keyboard's reach.
const element = document.getElementById("viewer");
new MutationObserver(() => {
  for (const text of element.querySelectorAll("textarea")) text.setAttribute("aria-label", "Request body");
  for (const close of element.querySelectorAll(".close-modal")) close.setAttribute("aria-label", "Close the dialog");
  for (const code of element.querySelectorAll("pre.microlight")) code.setAttribute("tabindex", "0");
}).observe(element, { childList: true, subtree: true });

if (issuer) {
  const local = document.getElementById("local");
  const [button, status] = local.children;
  local.hidden = false;
  button.addEventListener("click", async () => {
    try {
      const { token_endpoint } = await (await fetch(issuer)).json();
      const body = new URLSearchParams({ grant_type: "client_credentials" });
      const { access_token, expires_in } = await (await fetch(token_endpoint, { method: "POST", body })).json();
      viewer.preauthorizeApiKey("bearer", access_token);
      status.textContent = `The page has a token, which is good for ${expires_in / 3600} hours.`;
    } catch {
      status.textContent = "The local issuer did not give a token. Is it running?";
    }
  });
}
