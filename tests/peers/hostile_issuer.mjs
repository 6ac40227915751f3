// oauth2-mock-server as an issuer that says anything: tokens with any claim, and answers that no honest one gives.

import { OAuth2Issuer, OAuth2Service } from 'oauth2-mock-server';

import { serve } from './control.mjs';

await serve(async (url) => {
  const issuer = new OAuth2Issuer();
  issuer.url = url; // else it would say localhost, which is not where it listens
  await issuer.keys.generate('RS256');
  const service = new OAuth2Service(issuer);

  // What replaces an honest answer: {status, body} by the hook that brings it in. Absent: the answer stays honest.
  const lies = new Map();
  for (const hook of ['beforeIntrospect', 'beforeUserinfo', 'beforeResponse']) {
    service.on(hook, (answer) => {
      const lie = lies.get(hook);
      if (lie) Object.assign(answer, { statusCode: lie.status, body: lie.body });
    });
  }

  return {
    handle: () => service.requestHandler,
    controls: {
      key: async ({ alg }) => (await issuer.keys.generate(alg)).kid,
      lie: ({ hook, answer }) => {
        if (answer === null) lies.delete(hook);
        else lies.set(hook, answer);
      },
      honest: () => lies.clear(),
      token: ({ claims, without, header, kid }) =>
        issuer.buildToken({
          kid: kid ?? undefined,
          scopesOrTransform: (head, payload) => {
            Object.assign(head, header);
            Object.assign(payload, claims);
            for (const name of without) delete payload[name];
          },
        }),
    },
    says: {},
  };
});
