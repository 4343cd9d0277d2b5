-- Creates a function that lists the live sessions, for people with psql. It is in the schema of the
-- sessions table and is named after it. For the table "sessions":
--   live_sessions(idle interval, absolute interval DEFAULT NULL)
-- The arguments are the idle limit and the absolute limit of the store's Lifetime. NULL means that
-- a limit is not checked. The absolute limit is needed only if it was shortened, because each
-- session has a limit of its own, which is always checked. The result has no digests.
--
-- The function cannot know PgUser::CONDITION. The sessions of a user who does not meet the
-- condition, such as a disabled user, are in the result although the crate rejects them. Join the
-- users table to exclude them.
--
-- The function runs with the privileges of the caller. The caller needs USAGE on the schema and
-- SELECT on the sessions table, and not on token_digest.
--
-- The setting of 0001 names the table. Set it before this runs:
--   tower_user_session.sessions_table  default: sessions; the table must exist
-- If the function is installed, the script changes nothing. Run it again after the sessions table
-- was renamed or moved to another schema, or got another type of key. Concurrent runs take turns by
-- an advisory lock. Names are resolved as in 0001.
--
-- This is schema version 4. The first line of the function names it.
--
-- To uninstall (qualify with the schema of the sessions table):
--   DROP FUNCTION live_sessions(interval, interval);
DO $migration$
DECLARE
    caller_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.sessions_table', true);
    sessions CONSTANT pg_catalog.regclass := pg_catalog.to_regclass(
        CASE WHEN setting OPERATOR(pg_catalog.<>) '' THEN setting ELSE 'sessions' END);
    -- The limits are those of src/postgres/sql/live.sql and ends_at.sql. $1 is idle, and $2 is
    -- absolute: the application may have added columns with these names.
    template CONSTANT pg_catalog.text := $function$
-- tower-user-session, schema version 4
SELECT s.id, s.user_id, s.created_at, s.authenticated_at, s.last_seen_at,
       LEAST(s.expires_at, s.created_at OPERATOR(pg_catalog.+) $2), s.remembered, s.user_agent, s.ip
FROM %1$s AS s
WHERE s.expires_at OPERATOR(pg_catalog.>) pg_catalog.now()
  AND ($2 IS NULL
       OR s.created_at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) $2))
  AND ($1 IS NULL
       OR s.last_seen_at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) $1))
$function$;
    owner pg_catalog.oid;
    schema pg_catalog.text;
    key_type pg_catalog.text;
    source pg_catalog.text;
    function pg_catalog.text;
    arguments pg_catalog.text;
BEGIN
    -- PgSessionStore::migrate acquires the same lock ("sessions" in ASCII).
    PERFORM pg_catalog.pg_advisory_xact_lock(8315179226536832627);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT relowner, quote_ident(nspname), format_type(user_id.atttypid, user_id.atttypmod),
           format('%s.%I', quote_ident(nspname), 'live_' || relname)
    INTO owner, schema, key_type, function
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_attribute AS user_id ON user_id.attrelid = pg_class.oid AND user_id.attname = 'user_id'
    JOIN pg_attribute AS digest ON digest.attrelid = pg_class.oid AND digest.attname = 'token_digest'
    WHERE pg_class.oid = sessions AND NOT user_id.attisdropped AND NOT digest.attisdropped;
    IF NOT FOUND THEN
        RAISE undefined_table USING
            MESSAGE = 'there is no table of sessions to create a function for',
            HINT = 'Run 0001_create_sessions.sql first, with the same settings.';
    END IF;
    arguments := '(interval, interval)';
    source := format(template, sessions);
    IF EXISTS (
        SELECT FROM pg_proc
        WHERE oid = to_regprocedure(function || arguments) AND prosrc = source AND NOT prosecdef
          AND proconfig = ARRAY['search_path=pg_catalog, pg_temp']
          AND proallargtypes[4] = (
              SELECT atttypid FROM pg_attribute WHERE attrelid = sessions AND attname = 'user_id')
          AND pg_has_role(proowner, owner, 'MEMBER')
    ) THEN
        PERFORM set_config('search_path', caller_path, true);
        RETURN;
    END IF;

    -- No other role may be able to change the function, and no other function may be replaced.
    IF NOT pg_has_role(owner, 'MEMBER') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('function %s is missing or outdated', function),
            HINT = format('Run the migration as the owner of table %s.', sessions);
    END IF;
    IF EXISTS (
        SELECT FROM pg_proc
        WHERE oid = to_regprocedure(function || arguments)
          AND NOT (pg_has_role(proowner, owner, 'MEMBER')
                   AND strpos(prosrc, E'\n-- tower-user-session, schema version ') = 1)
    ) THEN
        RAISE duplicate_function USING
            MESSAGE = format('function %s exists and is not a function of this migration', function),
            HINT = 'Drop it, or choose another name for the table of sessions.';
    END IF;
    -- CREATE OR REPLACE cannot change the type of a result.
    EXECUTE format('DROP FUNCTION IF EXISTS %s%s', function, arguments);
    EXECUTE format(
        'CREATE FUNCTION %s(idle interval, absolute interval DEFAULT NULL) '
        'RETURNS TABLE (id uuid, user_id %s, created_at timestamptz, authenticated_at timestamptz, '
        'last_seen_at timestamptz, expires_at timestamptz, remembered boolean, user_agent text, ip inet) '
        'LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS %L',
        function, key_type, source);
    EXECUTE format('COMMENT ON FUNCTION %s%s IS %L', function, arguments,
        'Lists the sessions that have reached no limit. The condition of PgUser is not checked: '
        'sessions of users who must not be signed in are included.');
    PERFORM set_config('search_path', caller_path, true);
END
$migration$;
