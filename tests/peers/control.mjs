// What both issuers have beside their protocol, for the tests that hold them: counts of hits, outages, and the port.
//
// GET  /_control/hits                        how often each path was asked, as {"/jwks": 2}
// GET  /_control/hits?path=/jwks&least=2     the same, once that path was asked that often
// POST /_control/trouble                     {path, mode}: what the path does instead of answering, or every path if null;
//                                            mode is hang, reset, or {status, type, body}, or null for no trouble
// Others are the issuers' own. Control requests are never counted, and never in trouble.

import { once } from 'node:events';
import { createServer } from 'node:http';

// Standard output is for the line that says where the server is; libraries get the other one.
console.log = console.info = console.error;

const EVERYWHERE = null;
const hits = new Map();
const troubles = new Map();
const watchers = new Set();
const held = new Set();

/**
 * Serves on a free port of 127.0.0.1, and says so in one line of JSON on standard output.
 *
 * @param start Gets the issuer's URL; returns {handle(), controls, says}: the current request handler, what answers
 *   `POST /_control/NAME` by name, and what is said beside the port.
 */
export async function serve(start) {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  const { handle, controls, says } = await start(`http://127.0.0.1:${port}`);

  server.on('request', async (request, response) => {
    const url = new URL(request.url, 'http://127.0.0.1');
    try {
      if (url.pathname.startsWith('/_control/')) await control(controls, url, request, response);
      else if (await gets(url.pathname, request, response)) handle()(request, response);
    } catch (error) {
      console.error(error);
      response.writeHead(500, { 'content-type': 'text/plain' }).end(String(error));
    }
  });
  process.stdout.write(`${JSON.stringify({ port, ...says })}\n`);
}

/** Counts a request, and returns whether it is to be answered by the issuer: at once, or when its path hangs no more. */
async function gets(path, request, response) {
  hits.set(path, (hits.get(path) ?? 0) + 1);
  for (const watcher of watchers) watcher();

  for (;;) {
    const mode = troubles.get(path) ?? troubles.get(EVERYWHERE);
    if (mode === undefined) return true;
    if (mode === 'reset') {
      request.socket.resetAndDestroy();
      return false;
    }
    if (mode !== 'hang') {
      response.writeHead(mode.status, { 'content-type': mode.type }).end(mode.body);
      return false;
    }
    await new Promise((release) => held.add(release));
  }
}

async function control(controls, url, request, response) {
  const name = url.pathname.slice('/_control/'.length);
  let answer;
  if (request.method === 'GET' && name === 'hits') answer = await counted(url.searchParams);
  else {
    const wanted = JSON.parse(Buffer.concat(await request.toArray()).toString() || '{}');
    answer = await { trouble, ...controls }[name](wanted);
  }
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer ?? null));
}

async function counted(query) {
  const reached = () => (hits.get(query.get('path')) ?? 0) >= Number(query.get('least') ?? 0);
  if (!reached()) {
    await new Promise((resolve) => {
      const watcher = () => {
        if (reached()) resolve(watchers.delete(watcher));
      };
      watchers.add(watcher);
    });
  }
  return Object.fromEntries(hits);
}

function trouble({ path, mode }) {
  if (mode !== null) troubles.set(path, mode);
  else if (path !== EVERYWHERE) troubles.delete(path);
  else troubles.clear();
  for (const release of held) release();
  held.clear();
}
