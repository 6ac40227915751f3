"""The life of an API key: mint, parse, hash, keep, verify, rotate, revoke.

Who is who here:

- `format`, `hashing`: a key's text, and what is kept of it (`MintedKey`, `Digest`, `Peppers`).
- `records`: `KeyRecord` is a key as people see it; `StoredKey` is the record with its secrets, as a store keeps it;
  `CreatedKey` is the one answer that shows a key's text.
- `protocols`: what a store must do (`KeyReader` to verify, `KeyStore` to manage), and what the layer needs (`Keys`,
  `KeyVerification`).
- `service`: `KeyService`, the verbs. It is `store.keys`.
- `verifier`: `KeyVerifier`, from a presented text to a `KnownKey` (`known`), with the cache. It is `store.keys.verifier`.
- `static`, `strength`, `imported`: keys given in code, keys that a person chose, keys that another proxy issued.
"""
