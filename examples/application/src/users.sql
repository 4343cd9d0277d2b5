-- The examples' own table: the library never creates users. It can be run again, also by several
-- processes at the same time.
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('the users of the examples'));
CREATE TABLE IF NOT EXISTS users (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- In lower case.
    email text NOT NULL UNIQUE,
    -- In PHC format, with the parameters and the salt.
    password_hash text NOT NULL,
    -- Set, it signs the user out everywhere, and in nowhere.
    disabled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMIT;
