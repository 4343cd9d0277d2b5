BEGIN;
-- Two processes may start at the same time.
SELECT pg_advisory_xact_lock(hashtext('the tables of this example'));
CREATE TABLE IF NOT EXISTS link_users (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- In lower case.
    email text NOT NULL UNIQUE
);
-- At most one link for each address: a new one replaces the old one.
CREATE TABLE IF NOT EXISTS sign_in_links (
    email text PRIMARY KEY,
    -- SHA-256, so that the table contains no usable link.
    token_digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMIT;
