// sw.js: gives every response of this site the headers that make the page cross-origin isolated (threads), and keeps what was loaded for use without a network.
const NAME = "sardonyx-site-{{version}}";
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Resource-Policy": "same-origin" };

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith("sardonyx-site-") && name !== NAME) await caches.delete(name);
  await self.clients.claim();
})()));

/** {keep: URLs}: what a page loaded before this worker was there, so that its first visit is enough. */
self.addEventListener("message", (event) => event.waitUntil((async () => {
  const cache = await caches.open(NAME);
  for (const url of event.data.keep) if (new URL(url).origin === location.origin && !(await cache.match(url))) await cache.add(url).catch(() => {});
})()));

async function isolated(response) {
  if (response.type === "opaque" || response.status === 0 || response.status === 304) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== location.origin || request.headers.has("range")) return;
  event.respondWith((async () => {
    const cache = await caches.open(NAME);
    try {
      const fresh = await fetch(request);
      if (fresh.ok && fresh.status === 200) event.waitUntil(cache.put(request, fresh.clone()).catch(() => {}));
      return isolated(fresh);
    } catch (error) {
      const kept = await cache.match(request, { ignoreVary: true });
      if (!kept) throw error;
      return isolated(kept);
    }
  })());
});
