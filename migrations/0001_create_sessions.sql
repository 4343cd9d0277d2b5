-- Creates the sessions table, with one row per session. A row contains the digest of the token and
-- never the token. Therefore a leaked table contains no usable token.
--
-- These settings name the tables. Set them before the script runs (SET
-- tower_user_session.users_table = '...'):
--   tower_user_session.sessions_table  default: sessions
--   tower_user_session.users_table     default: users; the table must exist
--   tower_user_session.users_key       default: id; the type of this column becomes the type of sessions.user_id
-- A table is named as in SQL, with a schema and quotes if necessary. If the sessions table exists,
-- nothing changes. Concurrent runs take turns by an advisory lock.
--
-- Until the names are resolved, every function, operator and type is qualified. Afterwards the
-- search_path is pg_catalog. Therefore no object of another schema can run with the privileges of
-- the migrating role.
DO $migration$
DECLARE
    caller_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.sessions_table', true);
    sessions pg_catalog.text :=
        CASE WHEN setting OPERATOR(pg_catalog.<>) '' THEN setting ELSE 'sessions' END;
    users_setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.users_table', true);
    users_name CONSTANT pg_catalog.text :=
        CASE WHEN users_setting OPERATOR(pg_catalog.<>) '' THEN users_setting ELSE 'users' END;
    users CONSTANT pg_catalog.regclass := pg_catalog.to_regclass(users_name);
    key_setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.users_key', true);
    users_key pg_catalog.name :=
        CASE WHEN key_setting OPERATOR(pg_catalog.<>) '' THEN key_setting ELSE 'id' END;
    target_schema CONSTANT pg_catalog.name := pg_catalog.current_schema();
    name_parts pg_catalog.text[];
    existing pg_catalog.oid;
    users_key_type pg_catalog.text;
BEGIN
    -- "sessions" in ASCII.
    PERFORM pg_catalog.pg_advisory_xact_lock(8315179226536832627);
    existing := pg_catalog.to_regclass(sessions);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    IF existing IS NOT NULL THEN
        -- has_column_privilege reads the current catalog. A transaction above READ COMMITTED can
        -- have a snapshot that is older than the table.
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

    IF users IS NULL THEN
        RAISE undefined_table USING
            MESSAGE = format('the users'' table %s does not exist', users_name),
            HINT = 'Create it first, or set tower_user_session.users_table to its name.';
    END IF;

    -- The type includes the collation of the key. If two spellings of a key are equal in one table,
    -- they are then equal in the other table too.
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

    -- parse_ident rejects a string that is not a name. Therefore the statements below contain only
    -- identifiers.
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

    -- The foreign key: if a user's key is renamed, the sessions stay.
    EXECUTE format($table$
        CREATE TABLE %1$s (
            -- The public id, for lists of sessions, revocation and logs.
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            -- SHA-256 of the token's 32 bytes.
            token_digest bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
            user_id %2$s NOT NULL REFERENCES %3$s (%4$I) ON DELETE CASCADE ON UPDATE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
            -- The time of the last authentication or re-authentication.
            authenticated_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(authenticated_at)),
            -- The approximate time of the last use. The column must have no index. Then an update
            -- writes only to the page of the row (HOT).
            last_seen_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(last_seen_at)),
            -- The absolute limit of the session. It is set once.
            expires_at timestamptz NOT NULL CHECK (isfinite(expires_at)),
            -- Whether the cookie outlives the browser session.
            remembered boolean NOT NULL DEFAULT false,
            user_agent text CHECK (octet_length(user_agent) <= 1024),
            ip inet
        ) WITH (fillfactor = 85)
    $table$, sessions, users_key_type, users, users_key);
    EXECUTE format('CREATE INDEX ON %s (user_id)', sessions);
    PERFORM set_config('search_path', caller_path, true);
END
$migration$;
