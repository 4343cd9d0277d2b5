-- What this example adds to the tables of the other examples. The script can run repeatedly.
ALTER TABLE users
    ADD COLUMN IF NOT EXISTS is_admin boolean NOT NULL DEFAULT false,
    -- The secret of the authenticator app.
    ADD COLUMN IF NOT EXISTS totp_secret bytea,
    -- The time step of the last accepted code: each code is accepted once (RFC 6238 section 5.2).
    ADD COLUMN IF NOT EXISTS totp_step bigint NOT NULL DEFAULT 0;
ALTER TABLE sessions
    -- What the user has proven at the last authentication.
    ADD COLUMN IF NOT EXISTS factors text[] NOT NULL DEFAULT '{}',
    -- The session of the administrator who acts as the user. The sessions end together.
    ADD COLUMN IF NOT EXISTS impersonator_session uuid REFERENCES sessions ON DELETE CASCADE;
-- For the cascade.
CREATE INDEX IF NOT EXISTS sessions_impersonator_session ON sessions (impersonator_session)
    WHERE impersonator_session IS NOT NULL;
