-- One row a session. The token itself is never here: a leaked table signs nobody in.
--
-- Where the tables are is said by settings, set before this runs (SET tower_user_session.users_table = '...'):
--   tower_user_session.sessions_table  by default sessions
--   tower_user_session.users_table     by default users; it must exist
--   tower_user_session.users_key       by default id; its type becomes the type of sessions.user_id
-- Tables are named as in SQL: with a schema, and quoted, where need be. Does nothing where the table exists.
-- Processes that run it at the same time take turns by an advisory lock.
--
-- Until the names are resolved, every function, operator and type is qualified. After that the search_path is
-- pg_catalog, so that nothing in another schema of the path can run with the rights of the migrating role.
DO $migration$
DECLARE
    caller_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.sessions_table', true);
    sessions pg_catalog.text :=
        CASE WHEN setting OPERATOR(pg_catalog.<>) '' THEN setting ELSE 'sessions' END;
    users_setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.users_table', true);
    users pg_catalog.regclass :=
        CASE WHEN users_setting OPERATOR(pg_catalog.<>) '' THEN users_setting ELSE 'users' END;
    key_setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.users_key', true);
    users_key pg_catalog.name :=
        CASE WHEN key_setting OPERATOR(pg_catalog.<>) '' THEN key_setting ELSE 'id' END;
    target_schema CONSTANT pg_catalog.name := pg_catalog.current_schema();
    name_parts pg_catalog.text[];
    existing pg_catalog.oid;
    users_key_type pg_catalog.text;
BEGIN
    -- The lock that PgSessionStore::migrate takes too ("sessions" in ASCII).
    PERFORM pg_catalog.pg_advisory_xact_lock(8315179226536832627);
    existing := pg_catalog.to_regclass(sessions);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    IF existing IS NOT NULL THEN
        -- The answer comes from the catalog as it is now. The snapshot of a transaction above READ COMMITTED may
        -- be older than the table.
        BEGIN
            PERFORM has_column_privilege(existing, 'token_digest', 'SELECT');
        EXCEPTION WHEN undefined_column THEN
            RAISE duplicate_table USING
                MESSAGE = format('table %s exists and is not a table of sessions', sessions),
                HINT = 'Choose another name for the table of sessions.';
        END;
        PERFORM set_config('search_path', caller_path, true);
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
    name_parts := parse_ident(sessions);
    IF cardinality(name_parts) = 1 THEN
        IF target_schema IS NULL THEN
            RAISE invalid_schema_name USING
                MESSAGE = 'no schema has been selected to create the table of sessions in',
                HINT = 'Name a schema in tower_user_session.sessions_table, or set the search_path.';
        END IF;
        name_parts := target_schema || name_parts;
    END IF;
    SELECT string_agg(quote_ident(part), '.' ORDER BY place) INTO sessions
    FROM unnest(name_parts) WITH ORDINALITY AS parts (part, place);

    -- A key that is renamed takes its sessions along.
    EXECUTE format($table$
        CREATE TABLE %1$s (
            -- The public name: for lists of devices, revocation and logs.
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            -- SHA-256 of the token's 32 bytes.
            token_digest bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
            user_id %2$s NOT NULL REFERENCES %3$s (%4$I) ON DELETE CASCADE ON UPDATE CASCADE,
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
    PERFORM set_config('search_path', caller_path, true);
END
$migration$;
