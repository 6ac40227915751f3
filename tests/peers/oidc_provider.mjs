// oidc-provider, an OpenID-certified implementation, as the identity provider of a company that has an LLM proxy.

import { randomBytes, randomUUID } from 'node:crypto';

import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';

import { serve } from './control.mjs';

const PEOPLE = {
  ada: { email: 'ada@example.com', email_verified: true, groups: ['ml-platform', 'research'], department: 'research' },
  bob: { email: 'bob@example.com', email_verified: false, groups: [], department: 'sales' },
};

const SCOPES = 'llm:chat llm:admin';
const RESOURCES = {
  'https://llm.example/jwt': { scope: SCOPES, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
  'https://llm.example/jwt-es256': { scope: SCOPES, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  'https://llm.example/opaque': { scope: SCOPES, accessTokenFormat: 'opaque' },
};

const secret = () => randomBytes(24).toString('base64url');

// What RFC 6749 §2.3.1 has a client encode before Basic, and forms encode always: unencoded, it arrives as something else.
const AWKWARD = `${secret()}:%2B+ &=/~`;

const NO_PAGES = { redirect_uris: [], response_types: [] };
const ASKS = { ...NO_PAGES, grant_types: [] };

async function newKey(alg) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: randomUUID() };
}

function publicHalf({ d, p, q, dp, dq, qi, ...rest }) {
  return rest;
}

await serve(async (issuer) => {
  const assertionKeys = [await newKey('ES256'), await newKey('RS256')];
  const clients = [
    { ...NO_PAGES, client_id: 'service', client_secret: secret(), grant_types: ['client_credentials'], scope: SCOPES },
    { client_id: 'webapp', client_secret: secret(), redirect_uris: [`${issuer}/_nowhere`] },
    // These ask about tokens: one for each way to say who asks, and one that gets its answers signed.
    { ...ASKS, client_id: 'asks:basic', client_secret: AWKWARD, token_endpoint_auth_method: 'client_secret_basic' },
    { ...ASKS, client_id: 'asks-post', client_secret: AWKWARD, token_endpoint_auth_method: 'client_secret_post' },
    { ...ASKS, client_id: 'asks-jwt', jwks: { keys: assertionKeys.map(publicHalf) }, token_endpoint_auth_method: 'private_key_jwt' },
    { ...ASKS, client_id: 'asks-signed', client_secret: secret(), introspection_signed_response_alg: 'RS256' },
  ];

  const configuration = {
    // Given from outside, so that it outlives the provider when that is built again with other keys.
    adapter: createMemoryAdapter(),
    claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups', 'department'] },
    clients,
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
    clockTolerance: 0,
    cookies: { keys: [secret()] },
    extraTokenClaims: (_ctx, token) => PEOPLE[token.accountId],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: () => true },
      jwtIntrospection: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_ctx, resource) => ({ audience: resource, ...RESOURCES[resource] }),
      },
      revocation: { enabled: true, allowedPolicy: () => true },
    },
    findAccount: (_ctx, id) => PEOPLE[id] && { accountId: id, claims: () => ({ sub: id, ...PEOPLE[id] }) },
    scopes: ['openid', 'offline_access', 'email', 'groups', ...SCOPES.split(' ')],
    ttl: { AccessToken: 3600, ClientCredentials: 3600, Grant: 3600, IdToken: 600 },
  };

  let keys = [];
  let provider;
  let callback;

  // A provider holds its keys for life, so new keys take a new provider. The first key that fits signs: new ones lead.
  async function rotate({ keep }) {
    const fresh = [await newKey('RS256'), await newKey('ES256')];
    keys = keep ? [...fresh, ...keys] : fresh;
    provider = new Provider(issuer, { ...configuration, jwks: { keys } });
    callback = provider.callback();
    return keys.map(({ kid }) => kid);
  }
  await rotate({ keep: false });

  // A user's token without the pages of a login: through the provider's own models, into the storage that its endpoints
  // read. So grant, expiry, introspection, revocation and userinfo are the real ones; only the login itself is not.
  async function token({ user, scope, resource, ttl }) {
    const client = await provider.Client.find('webapp');
    const grant = new provider.Grant({ accountId: user, clientId: client.clientId });
    if (resource) grant.addResourceScope(resource, scope);
    else grant.addOIDCScope(scope);
    const grantId = await grant.save();
    const issued = new provider.AccessToken({ accountId: user, client, expiresIn: ttl, grantId, gty: 'authorization_code', scope });
    if (resource) issued.resourceServer = { audience: resource, ...RESOURCES[resource] };
    return issued.save();
  }

  return {
    handle: () => callback,
    controls: { rotate, token },
    says: {
      secrets: Object.fromEntries(clients.map((client) => [client.client_id, client.client_secret ?? null])),
      assertion_keys: assertionKeys,
    },
  };
});
