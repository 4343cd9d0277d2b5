-- The users table of the examples. The library never creates a users table. The script can run
-- repeatedly and in several processes at the same time.
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('the users of the examples'));
CREATE TABLE IF NOT EXISTS users (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- In lower case.
    email text NOT NULL UNIQUE,
    -- In PHC format, with the parameters and the salt.
    password_hash text NOT NULL,
    -- If it is set, the user cannot sign in, and all sessions of the user are rejected.
    disabled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMIT;
