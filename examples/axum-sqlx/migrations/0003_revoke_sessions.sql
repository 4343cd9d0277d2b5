-- Creates functions that end sessions. They work in any transaction of any client: psql, or an
-- application that changes a password with sqlx, Diesel or SeaORM. They are in the schema of the
-- sessions table and are named after it. For the table "sessions":
--   sessions_revoke(user_id, session_id)             ends this session, if it is the user's
--   sessions_revoke_others(user_id, kept_session_id) ends all sessions of the user except one
--   sessions_revoke_all(user_id)                     ends all sessions of the user
--   sessions_revoke_everyone()                       ends all sessions of all users
-- The first three return the ids of the ended sessions, and the last one returns their number.
--
-- Like the crate's own calls, the functions first wait for the sign-ins of the user that are in
-- progress. A DELETE does not see the session of a sign-in that commits a moment later. Until the
-- transaction ends, other sign-ins and revocations of the user wait. The functions reject an
-- isolation level above READ COMMITTED, because its snapshot can be older than such a sign-in.
--
-- The functions run with the privileges of the caller: USAGE on the schema, SELECT (id, user_id) and
-- DELETE on the sessions table, and SELECT on the key of the users table. PUBLIC may execute them,
-- unless ALTER DEFAULT PRIVILEGES says otherwise. A trigger of the application on the sessions table
-- must qualify its names, because a function sets the search_path.
--
-- The settings of 0001 name the tables. Set them before this runs:
--   tower_user_session.sessions_table  default: sessions; the table must exist
--   tower_user_session.users_table     default: users; used only if the sessions have no foreign key
--   tower_user_session.users_key       default: id; used only if the sessions have no foreign key
-- If all functions are installed, the script changes nothing. Run it again after the sessions table
-- or the users table was renamed, moved to another schema, or got another type of key.
-- Concurrent runs take turns by an advisory lock. Names are resolved as in 0001.
--
-- This is schema version 3. The first line of each function names it.
--
-- To uninstall (qualify with the schema of the sessions table; bigint is the type of the users' key):
--   DROP FUNCTION sessions_revoke(bigint, uuid), sessions_revoke_others(bigint, uuid),
--                 sessions_revoke_all(bigint), sessions_revoke_everyone();
DO $migration$
DECLARE
    caller_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.sessions_table', true);
    sessions CONSTANT pg_catalog.regclass := pg_catalog.to_regclass(
        CASE WHEN setting OPERATOR(pg_catalog.<>) '' THEN setting ELSE 'sessions' END);
    users_setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.users_table', true);
    users pg_catalog.regclass := pg_catalog.to_regclass(
        CASE WHEN users_setting OPERATOR(pg_catalog.<>) '' THEN users_setting ELSE 'users' END);
    key_setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.users_key', true);
    users_key pg_catalog.name :=
        CASE WHEN key_setting OPERATOR(pg_catalog.<>) '' THEN key_setting ELSE 'id' END;

    -- The statements are those of the crate, in src/postgres/sql: isolation.sql, lock_key.sql,
    -- locked_user.sql, revoke.sql and revocable.sql. A test compares them. The lock is a statement of
    -- its own, so that the next one sees the session of a sign-in that the lock has waited for.
    of_user CONSTANT pg_catalog.text := $function$
-- tower-user-session, schema version 3
DECLARE
    ended_ids pg_catalog.uuid[];
BEGIN
    IF %7$s THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the user and the session must not be NULL';
    END IF;
    IF NOT (
        pg_catalog.current_setting('transaction_isolation')
        OPERATOR(pg_catalog.=) ANY ('{read committed,read uncommitted}'::pg_catalog.text[])
    ) THEN
        RAISE invalid_transaction_state USING
            MESSAGE = 'the transaction''s isolation level is above READ COMMITTED',
            HINT = 'Begin it with ISOLATION LEVEL READ COMMITTED.';
    END IF;
    PERFORM pg_catalog.pg_advisory_xact_lock(
        pg_catalog.hashtextextended(
            pg_catalog.concat(%1$L::pg_catalog.text::pg_catalog.regclass::pg_catalog.oid, ' ', users.key), 0)
    )
    FROM (
        SELECT k.key::pg_catalog.text
        FROM (SELECT u.%3$I FROM %2$s AS u WHERE u.%3$I %4$s $1 LIMIT 1) AS k (key)
    ) AS users (key);
    WITH ended AS (
        DELETE FROM %1$s AS s
        WHERE s.user_id %4$s $1
          AND (%5$s::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.=) %5$s)
          AND (%6$s::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.<>) %6$s)
        RETURNING s.id
    )
    SELECT coalesce(pg_catalog.array_agg(ended.id), '{}') INTO ended_ids FROM ended;
    IF (
        SELECT EXISTS (
            SELECT
            FROM %1$s AS s
            WHERE s.user_id %4$s $1
              AND (%5$s::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.=) %5$s)
              AND (%6$s::pg_catalog.uuid IS NULL OR s.id OPERATOR(pg_catalog.<>) %6$s)
        )
    ) THEN
        RAISE triggered_action_exception USING
            MESSAGE = 'the revocation failed: a trigger or a rule on the sessions table suppressed it';
    END IF;
    RETURN ended_ids;
END
$function$;

    -- The same, with isolation.sql, lock_everyone.sql, revoke_everyone.sql and any_session.sql.
    of_everyone CONSTANT pg_catalog.text := $function$
-- tower-user-session, schema version 3
DECLARE
    ended_count pg_catalog.int8;
BEGIN
    IF NOT (
        pg_catalog.current_setting('transaction_isolation')
        OPERATOR(pg_catalog.=) ANY ('{read committed,read uncommitted}'::pg_catalog.text[])
    ) THEN
        RAISE invalid_transaction_state USING
            MESSAGE = 'the transaction''s isolation level is above READ COMMITTED',
            HINT = 'Begin it with ISOLATION LEVEL READ COMMITTED.';
    END IF;
    LOCK TABLE %1$s IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM %1$s AS s;
    GET DIAGNOSTICS ended_count = ROW_COUNT;
    IF (
        SELECT EXISTS (SELECT FROM %1$s AS s)
    ) THEN
        RAISE triggered_action_exception USING
            MESSAGE = 'the revocation failed: a trigger or a rule on the sessions table suppressed it';
    END IF;
    RETURN ended_count;
END
$function$;

    owner pg_catalog.oid;
    schema pg_catalog.text;
    base_name pg_catalog.name;
    key_type pg_catalog.text;
    equals pg_catalog.text := 'OPERATOR(pg_catalog.=)';
    reference pg_catalog.record;
    place pg_catalog.record;
    source pg_catalog.text;
    function pg_catalog.text;
    other pg_catalog.regprocedure;
BEGIN
    -- The lock of 0001 ("sessions" in ASCII).
    PERFORM pg_catalog.pg_advisory_xact_lock(8315179226536832627);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT relowner, quote_ident(nspname), relname, format_type(user_id.atttypid, NULL)
    INTO owner, schema, base_name, key_type
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_attribute AS user_id ON user_id.attrelid = pg_class.oid AND user_id.attname = 'user_id'
    JOIN pg_attribute AS digest ON digest.attrelid = pg_class.oid AND digest.attname = 'token_digest'
    WHERE pg_class.oid = sessions AND NOT user_id.attisdropped AND NOT digest.attisdropped;
    IF NOT FOUND THEN
        RAISE undefined_table USING
            MESSAGE = 'there is no table of sessions to create functions for',
            HINT = 'Run 0001_create_sessions.sql first, with the same settings.';
    END IF;
    IF octet_length(base_name || '_revoke_everyone') > current_setting('max_identifier_length')::integer THEN
        RAISE name_too_long USING
            MESSAGE = format('the name of table %s is too long: functions are named after it', sessions),
            HINT = 'Use a name of at most 47 bytes.';
    END IF;

    -- The foreign key decides which users the sessions belong to, and how their keys are compared.
    SELECT confrelid::regclass AS users, key.attname AS key, format('OPERATOR(%I.%s)', nspname, oprname) AS equals
    INTO reference
    FROM pg_constraint
    JOIN pg_attribute AS user_id ON user_id.attrelid = conrelid AND user_id.attname = 'user_id'
    JOIN pg_attribute AS key ON key.attrelid = confrelid AND key.attnum = confkey[1]
    JOIN pg_operator ON pg_operator.oid = conpfeqop[1]
    JOIN pg_namespace ON pg_namespace.oid = oprnamespace
    WHERE conrelid = sessions AND contype = 'f' AND conkey = ARRAY[user_id.attnum]
    LIMIT 1;
    IF FOUND THEN
        users := reference.users;
        users_key := reference.key;
        equals := reference.equals;
    ELSIF NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = users AND attname = users_key AND attnum > 0 AND NOT attisdropped
    ) THEN
        RAISE undefined_column USING
            MESSAGE = 'there is no table of users with this key',
            HINT = 'Set tower_user_session.users_table and tower_user_session.users_key.';
    END IF;

    FOR place IN
        SELECT *
        FROM (VALUES
            ('_revoke', ARRAY['user_id', 'session_id'], ARRAY[key_type, 'uuid'], 'uuid[]', of_user, '$2', 'NULL'),
            ('_revoke_others', ARRAY['user_id', 'kept_session_id'], ARRAY[key_type, 'uuid'], 'uuid[]', of_user,
             'NULL', '$2'),
            ('_revoke_all', ARRAY['user_id'], ARRAY[key_type], 'uuid[]', of_user, 'NULL', 'NULL'),
            ('_revoke_everyone', ARRAY[]::text[], ARRAY[]::text[], 'bigint', of_everyone, NULL, NULL)
        ) AS places (suffix, names, types, result, template, only_id, except_id)
    LOOP
        source := format(
            place.template, sessions, users, users_key, equals, place.only_id, place.except_id,
            (SELECT string_agg(format('$%s IS NULL', number), ' OR ' ORDER BY number)
             FROM generate_series(1, cardinality(place.names)) AS numbers (number)));
        function := format(
            '%s.%I(%s)', schema, base_name || place.suffix, array_to_string(place.types, ', '));
        IF EXISTS (
            SELECT FROM pg_proc
            WHERE oid = to_regprocedure(function) AND prosrc = source AND NOT prosecdef
              AND proconfig = ARRAY['search_path=pg_catalog, pg_temp', 'row_security=off']
              AND pg_has_role(proowner, owner, 'MEMBER')
        ) THEN
            CONTINUE;
        END IF;

        -- No other role may be able to change the function, and no other function may be replaced.
        IF NOT pg_has_role(owner, 'MEMBER') THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('function %s is missing or outdated', function),
                HINT = format('Run the migration as the owner of table %s.', sessions);
        END IF;
        IF EXISTS (
            SELECT FROM pg_proc
            WHERE oid = to_regprocedure(function)
              AND NOT (pg_has_role(proowner, owner, 'MEMBER')
                       AND strpos(prosrc, E'\n-- tower-user-session, schema version ') = 1)
        ) THEN
            RAISE duplicate_function USING
                MESSAGE = format('function %s exists and is not a function of this migration', function),
                HINT = 'Drop it, or choose another name for the table of sessions.';
        END IF;
        -- With a function for a former type of the key, a call could be ambiguous.
        FOR other IN
            SELECT pg_proc.oid
            FROM pg_proc
            WHERE pronamespace = schema::regnamespace AND proname = base_name || place.suffix
              AND pg_proc.oid IS DISTINCT FROM to_regprocedure(function)
              AND strpos(prosrc, E'\n-- tower-user-session, schema version ') = 1
        LOOP
            EXECUTE format('DROP FUNCTION %s', other);
        END LOOP;
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION %s.%I(%s) RETURNS %s LANGUAGE plpgsql SECURITY INVOKER '
            'SET search_path = pg_catalog, pg_temp SET row_security = off AS %L',
            schema, base_name || place.suffix,
            (SELECT string_agg(concat(name, ' ', type), ', ' ORDER BY number)
             FROM ROWS FROM (unnest(place.names), unnest(place.types))
                 WITH ORDINALITY AS parameters (name, type, number)),
            place.result, source);
    END LOOP;
    PERFORM set_config('search_path', caller_path, true);
END
$migration$;
