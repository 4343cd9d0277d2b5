BEGIN;
-- Two processes may start at the same time.
SELECT pg_advisory_xact_lock(hashtext('the tables of this example'));
CREATE TABLE IF NOT EXISTS passkey_users (
    -- Passkeys contain the key, so it is random and never changes.
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS passkeys (
    credential_id bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES passkey_users ON DELETE CASCADE,
    -- The public key and the counter, in the format of webauthn-rs.
    passkey jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS passkeys_user_id ON passkeys (user_id);
COMMIT;
