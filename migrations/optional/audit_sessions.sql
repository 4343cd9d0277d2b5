-- Creates an audit trail of the sessions table: a table to which triggers add one row for each
-- session that begins, changes its token or ends. The row is written in the transaction of the
-- change. Therefore the trail includes the changes of every client: this crate, psql, a foreign key
-- that cascades, the deletion of expired sessions and TRUNCATE. This script is optional, and the
-- crate never runs it. Run it with psql or with the migration tool of the application.
--
-- The table is in the schema of the sessions table and is named after it: sessions_audit. Its columns:
--   id            the order of writing
--   event         'began', 'rotated' (a new token, as after a re-authentication), 'reassigned' (another
--                 user_id, as after a user's key was renamed), 'ended', or 'expired' (removed after its
--                 limit)
--   happened_at   the time of the transaction. For 'expired', the limit of the session
--   recorded_at   the time of the transaction
--   session_id    the public id of the session. There is no foreign key
--   user_id       the key of the user, as text. There is no foreign key
--   user_agent, ip, last_seen_at  as in the session at that time
--   columns       the columns that audit_columns names, as text; null values are omitted
--   reason        the setting tower_user_session.reason of the transaction that made the change
--   actor         the setting tower_user_session.actor of that transaction
--   database_role the role with which the client connected (session_user)
-- The table contains neither tokens nor digests. It contains personal data: delete old rows.
--   DELETE FROM sessions_audit WHERE recorded_at < now() - interval '1 year';
--
-- A client names the reason and the actor for one transaction. SET without LOCAL would affect later
-- transactions on a pooled connection. Every client can set any value: the reason and the actor are
-- claims of the client.
--   BEGIN;
--   SET LOCAL tower_user_session.reason = 'reported as stolen';
--   SET LOCAL tower_user_session.actor = 'support: eve';
--   SELECT sessions_revoke_all(7);
--   COMMIT;
--
-- Only the owner of the sessions table, members of that role and superusers can write to the audit
-- table, because the triggers run with the privileges of the owner (SECURITY DEFINER). Another role
-- adds rows only by changing sessions. An UPDATE of the audit table fails for every role. To show
-- the trail to another role, grant SELECT.
--
-- The settings, to set before the script runs:
--   tower_user_session.sessions_table      default: sessions; the table must exist
--   tower_user_session.audit_columns       default: none; further columns of the sessions table to record,
--                                          separated by commas
--   tower_user_session.audit_idle_timeout  default: none; the idle limit of the store, such as '14 days'
-- Without audit_idle_timeout, the only limit is expires_at, and a session that was deleted after its
-- idle limit is 'ended'.
--
-- Limitations: sessions that exist when the script runs have no row 'began'. DROP TABLE, and changes
-- while the triggers are disabled, are not recorded. TRUNCATE is rejected at an isolation level above
-- READ COMMITTED, because the snapshot can be older than sessions that TRUNCATE removes. If the
-- trigger cannot write, the change of the session fails.
--
-- The script can run again: it replaces functions of another version and restores triggers and
-- privileges. It needs the privileges of the owner of the sessions table, and CREATE in its schema.
-- Run it again after the sessions table was renamed or moved, or audit_columns has changed.
-- Concurrent runs take turns by an advisory lock. Names are resolved as in 0001.
--
-- To uninstall (qualify with the schema of the sessions table; CASCADE drops the triggers too):
--   DROP FUNCTION sessions_audit_write() CASCADE;
--   DROP TABLE sessions_audit;
DO $migration$
DECLARE
    caller_path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    setting CONSTANT pg_catalog.text := pg_catalog.current_setting('tower_user_session.sessions_table', true);
    sessions CONSTANT pg_catalog.regclass := pg_catalog.to_regclass(
        CASE WHEN setting OPERATOR(pg_catalog.<>) '' THEN setting ELSE 'sessions' END);

    -- %1$s is the audit table with its columns, %2$s the values of the row s, %3$s the limit of the
    -- session s, and %4$L the statement for TRUNCATE up to the name of the sessions table. The
    -- statements read transition tables and not OLD or NEW: a cached plan with OLD fails after the
    -- type of a column has changed. Rows are compared byte by byte. Therefore no operator of the
    -- key's type is called.
    source pg_catalog.text := $function$
-- tower-user-session, audit version 1
#variable_conflict use_variable -- An application can add a column that has the name of a variable.
DECLARE
    reason CONSTANT text := left(nullif(current_setting('tower_user_session.reason', true), ''), 1024);
    actor CONSTANT text := left(nullif(current_setting('tower_user_session.actor', true), ''), 1024);
BEGIN
    IF TG_WHEN = 'BEFORE' AND TG_OP = 'UPDATE' THEN
        RAISE insufficient_privilege USING MESSAGE = 'the rows of an audit trail cannot be changed';
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO %1$s SELECT 'began', now(), %2$s FROM new_rows AS s;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO %1$s SELECT %3$s, %2$s FROM old_rows AS s;
    ELSIF TG_OP = 'UPDATE' THEN
        -- A use of a session changes none of these columns.
        IF EXISTS (
            SELECT
            FROM new_rows AS s
            FULL JOIN old_rows AS o ON o.id = s.id
            WHERE s.id IS NULL
               OR o.id IS NULL
               OR ROW(o.token_digest, o.user_id)::record *<> ROW(s.token_digest, s.user_id)::record
        ) THEN
            INSERT INTO %1$s
            SELECT changed.event, now(), %2$s
            FROM new_rows AS s
            JOIN old_rows AS o ON o.id = s.id
            CROSS JOIN LATERAL (VALUES
                ('rotated', o.token_digest <> s.token_digest),
                ('reassigned', ROW(o.user_id)::record *<> ROW(s.user_id)::record)
            ) AS changed (event, happened)
            WHERE changed.happened;
            -- A session with another id is another session.
            INSERT INTO %1$s
            SELECT %3$s, %2$s FROM old_rows AS s WHERE s.id NOT IN (SELECT n.id FROM new_rows AS n);
            INSERT INTO %1$s
            SELECT 'began', now(), %2$s FROM new_rows AS s WHERE s.id NOT IN (SELECT o.id FROM old_rows AS o);
        END IF;
    ELSE
        -- TRUNCATE has no transition table. The lock on the sessions table is held, so that this
        -- statement sees every committed session.
        IF NOT current_setting('transaction_isolation') = ANY ('{read committed,read uncommitted}') THEN
            RAISE invalid_transaction_state USING
                MESSAGE = 'TRUNCATE of audited sessions at an isolation level above READ COMMITTED',
                HINT = 'Begin the transaction with ISOLATION LEVEL READ COMMITTED.';
        END IF;
        EXECUTE concat(%4$L::text, TG_RELID::regclass, ' AS s') USING reason, actor;
    END IF;
    RETURN NULL;
END
$function$;

    owner pg_catalog.oid;
    schema pg_catalog.text;
    base_name pg_catalog.name;
    audit pg_catalog.text;
    function pg_catalog.text;
    recorded_columns pg_catalog.text;
    ends_at pg_catalog.text := 's.expires_at';
    target pg_catalog.text;
    fields pg_catalog.text;
    ended pg_catalog.text;
    place pg_catalog.record;
BEGIN
    -- The lock of 0001 ("sessions" in ASCII).
    PERFORM pg_catalog.pg_advisory_xact_lock(8315179226536832627);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT relowner, quote_ident(nspname), relname INTO owner, schema, base_name
    FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'token_digest' AND NOT attisdropped
    WHERE pg_class.oid = sessions;
    IF NOT FOUND THEN
        RAISE undefined_table USING
            MESSAGE = 'there is no table of sessions to audit',
            HINT = 'Run 0001_create_sessions.sql first, with the same settings.';
    END IF;
    IF NOT pg_has_role(owner, 'MEMBER') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('the current role does not own table %s', sessions),
            HINT = format('Run the migration as the owner of table %s.', sessions);
    END IF;
    IF octet_length(base_name || '_audit_write') > current_setting('max_identifier_length')::integer THEN
        RAISE name_too_long USING
            MESSAGE = format('the name of table %s is too long: the audit table is named after it', sessions),
            HINT = 'Use a name of at most 51 bytes.';
    END IF;
    audit := format('%s.%I', schema, base_name || '_audit');
    function := format('%s.%I', schema, base_name || '_audit_write');

    -- The triggers write with the privileges of the owner. No other role may be able to add a trigger
    -- to the audit table, or to change the function.
    IF EXISTS (
        SELECT FROM pg_class
        WHERE oid = to_regclass(audit)
          AND NOT (relkind = 'r' AND relowner = owner
                   AND EXISTS (SELECT FROM pg_attribute
                               WHERE attrelid = pg_class.oid AND attname = 'database_role' AND NOT attisdropped))
    ) THEN
        RAISE duplicate_table USING
            MESSAGE = format('%s exists and is not a table of this migration', audit),
            HINT = 'Rename or drop it.';
    END IF;
    IF EXISTS (
        SELECT FROM pg_proc
        WHERE oid = to_regprocedure(function || '()')
          AND NOT (proowner = owner AND strpos(prosrc, E'\n-- tower-user-session, audit version ') = 1)
    ) THEN
        RAISE duplicate_function USING
            MESSAGE = format('function %s() exists and is not a function of this migration', function),
            HINT = 'Rename or drop it.';
    END IF;

    IF to_regclass(audit) IS NULL THEN
        EXECUTE format($table$
            CREATE TABLE %1$s (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                event text NOT NULL CHECK (event IN ('began', 'rotated', 'reassigned', 'ended', 'expired')),
                happened_at timestamptz NOT NULL,
                recorded_at timestamptz NOT NULL DEFAULT now(),
                session_id uuid NOT NULL,
                user_id text NOT NULL,
                user_agent text,
                ip inet,
                last_seen_at timestamptz NOT NULL,
                columns jsonb NOT NULL,
                reason text,
                actor text,
                database_role text NOT NULL DEFAULT session_user
            )
        $table$, audit);
        -- The first index is for a user's recent events, and the second for the deletion of old rows.
        EXECUTE format('CREATE INDEX ON %s (user_id, id)', audit);
        EXECUTE format('CREATE INDEX ON %s USING brin (recorded_at)', audit);
        EXECUTE format('ALTER TABLE %s OWNER TO %s', audit, owner::regrole);
    END IF;

    -- parse_ident rejects a string that is not a name.
    FOR place IN
        SELECT (parse_ident(given))[1] AS name
        FROM unnest(string_to_array(nullif(current_setting('tower_user_session.audit_columns', true), ''), ','))
            AS names (given)
    LOOP
        IF place.name = 'token_digest' THEN
            RAISE invalid_parameter_value USING MESSAGE = 'the digest of a token must not be recorded';
        END IF;
        IF NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = sessions AND attname = place.name AND attnum > 0 AND NOT attisdropped
        ) THEN
            RAISE undefined_column USING
                MESSAGE = format('column %I of table %s does not exist', place.name, sessions),
                HINT = 'Add it first, or set tower_user_session.audit_columns.';
        END IF;
        recorded_columns := concat_ws(', ', recorded_columns, format(
            '%1$L, CASE WHEN s.%1$I IS NOT NULL THEN concat(s.%1$I) END', place.name));
    END LOOP;
    IF nullif(current_setting('tower_user_session.audit_idle_timeout', true), '') IS NOT NULL THEN
        ends_at := format('least(s.expires_at, s.last_seen_at + %L::interval)',
                          current_setting('tower_user_session.audit_idle_timeout')::interval);
    END IF;
    target := audit
        || ' (event, happened_at, session_id, user_id, user_agent, ip, last_seen_at, columns, reason, actor)';
    fields := format('s.id, concat(s.user_id), s.user_agent, s.ip, s.last_seen_at, '
        'jsonb_strip_nulls(jsonb_build_object(%s))', recorded_columns);
    ended := format('CASE WHEN %1$s <= now() THEN ''expired'' ELSE ''ended'' END, least(%1$s, now())', ends_at);
    source := format(
        source, target, fields || ', reason, actor', ended,
        concat('INSERT INTO ', target, ' SELECT ', ended, ', ', fields, ', $1, $2 FROM '));
    IF NOT EXISTS (
        SELECT FROM pg_proc
        WHERE oid = to_regprocedure(function || '()') AND prosrc = source AND prosecdef
          AND proconfig = ARRAY['search_path=pg_catalog, pg_temp', 'row_security=off']
    ) THEN
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp SET row_security = off AS %L', function, source);
        EXECUTE format('ALTER FUNCTION %s() OWNER TO %s', function, owner::regrole);
    END IF;

    -- Default privileges can grant more. A role that may execute the function could call it by a
    -- trigger of its own table.
    FOR place IN
        SELECT format('REVOKE %s ON %s %s FROM %s CASCADE', privilege_type, kind, name,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END) AS revoke
        FROM (
            SELECT 'TABLE', oid::regclass::text, coalesce(relacl, acldefault('r', owner))
            FROM pg_class WHERE oid = to_regclass(audit)
            UNION ALL
            SELECT 'SEQUENCE', oid::regclass::text, coalesce(relacl, acldefault('s', owner))
            FROM pg_class WHERE oid = pg_get_serial_sequence(audit, 'id')::regclass
            UNION ALL
            SELECT 'FUNCTION', oid::regprocedure::text, coalesce(proacl, acldefault('f', owner))
            FROM pg_proc WHERE oid = to_regprocedure(function || '()')
        ) AS objects (kind, name, acl)
        CROSS JOIN aclexplode(acl)
        WHERE grantee <> owner AND (kind, privilege_type) <> ('TABLE', 'SELECT')
    LOOP
        EXECUTE place.revoke;
    END LOOP;

    FOR place IN
        SELECT *
        FROM (VALUES
            ('tower_user_session_audit_began', sessions, 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows', 4),
            ('tower_user_session_audit_changed', sessions, 'AFTER UPDATE',
             'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows', 16),
            ('tower_user_session_audit_ended', sessions, 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows', 8),
            ('tower_user_session_audit_emptied', sessions, 'BEFORE TRUNCATE', '', 34),
            ('tower_user_session_audit_kept', audit::regclass, 'BEFORE UPDATE', '', 18)
        ) AS places (trigger, on_table, event, rows, type)
    LOOP
        IF NOT EXISTS (
            SELECT FROM pg_trigger
            WHERE tgrelid = place.on_table AND tgname = place.trigger AND tgenabled = 'A'
              AND tgtype = place.type AND tgqual IS NULL AND tgfoid = to_regprocedure(function || '()')
        ) THEN
            EXECUTE format('CREATE OR REPLACE TRIGGER %I %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                           place.trigger, place.event, place.on_table, place.rows, function);
            -- The trigger must fire also if session_replication_role is replica.
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', place.on_table, place.trigger);
        END IF;
    END LOOP;
    PERFORM set_config('search_path', caller_path, true);
END
$migration$;
