-- One row a session. The token itself is never here: a leaked table signs nobody in.
--
-- Where the tables are is said by settings, set before this runs (SET tower_user_session.users_table = '...'):
--   tower_user_session.sessions_table  by default sessions
--   tower_user_session.users_table     by default users; it must exist
--   tower_user_session.users_key       by default id; its type becomes the type of sessions.user_id
-- Tables are named as in SQL: with a schema, and quoted, where need be. Does nothing where the table exists.
DO $migration$
DECLARE
    sessions text := coalesce(nullif(current_setting('tower_user_session.sessions_table', true), ''), 'sessions');
    users regclass := coalesce(nullif(current_setting('tower_user_session.users_table', true), ''), 'users')::regclass;
    users_key name := coalesce(nullif(current_setting('tower_user_session.users_key', true), ''), 'id');
    users_key_type text;
BEGIN
    IF to_regclass(sessions) IS NOT NULL THEN
        IF NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = to_regclass(sessions) AND attname = 'token_digest' AND NOT attisdropped
        ) THEN
            RAISE duplicate_table USING
                MESSAGE = format('table %s exists and is not a table of sessions', sessions),
                HINT = 'Choose another name for the table of sessions.';
        END IF;
        RETURN;
    END IF;

    -- With the key's collation, so that two spellings which are one key there are one key here.
    SELECT concat(
        format_type(atttypid, atttypmod),
        (SELECT concat(' COLLATE ', quote_ident(nspname), '.', quote_ident(collname))
         FROM pg_collation JOIN pg_namespace ON pg_namespace.oid = collnamespace
         WHERE pg_collation.oid = attcollation))
    INTO users_key_type
    FROM pg_attribute
    WHERE attrelid = users AND attname = users_key AND attnum > 0 AND NOT attisdropped;
    IF NOT FOUND THEN
        RAISE undefined_column USING
            MESSAGE = format('column %I of the users'' table %s does not exist', users_key, users),
            HINT = 'Set tower_user_session.users_key to the key of the users'' table.';
    END IF;

    -- parse_ident refuses what is not a name, so that only identifiers reach the statements below.
    SELECT string_agg(quote_ident(part), '.' ORDER BY place) INTO sessions
    FROM unnest(parse_ident(sessions)) WITH ORDINALITY AS parts (part, place);

    EXECUTE format($table$
        CREATE TABLE %1$s (
            -- The public name: for lists of devices, revocation and logs.
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            -- SHA-256 of the token's 32 bytes.
            token_digest bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
            user_id %2$s NOT NULL REFERENCES %3$s (%4$I) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
            -- When the person last proved who they are.
            authenticated_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(authenticated_at)),
            -- Written now and then while the session is used. No index may stand on it: then an
            -- update of it stays within its page (HOT).
            last_seen_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(last_seen_at)),
            -- The absolute limit, set once.
            expires_at timestamptz NOT NULL CHECK (isfinite(expires_at)),
            -- Whether the person asked to be remembered when the browser is closed.
            remembered boolean NOT NULL DEFAULT false,
            user_agent text CHECK (octet_length(user_agent) <= 1024),
            ip inet
        ) WITH (fillfactor = 85)
    $table$, sessions, users_key_type, users, users_key);
    EXECUTE format('CREATE INDEX ON %s (user_id)', sessions);
END
$migration$;
