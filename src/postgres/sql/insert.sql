-- The statement of a sign-in. Inserts a session and deletes the sessions that it replaces. If the user does not exist or does
-- not meet the application's condition, nothing changes, and the statement returns no row. A duplicate
-- digest fails the whole statement. The statement never updates a row. The condition is evaluated for
-- this user only: see find.sql.
--
-- COMMIT is sent together with this statement. A rejected insertion therefore changes nothing or
-- raises an error. If a trigger suppressed the insertion, the last column raises the error of
-- none_left.sql.
WITH allowed_user AS MATERIALIZED (
    SELECT DISTINCT allowed.allowed_user_id
    FROM :new_session LATERAL (
        SELECT :key AS allowed_user_id
        FROM :from
        WHERE :key :equals :user_id
          AND CASE WHEN :key :equals :user_id THEN (:condition) END
          :preconditions
    ) AS allowed
), replaced AS (
    -- Sessions are deleted by id, because a concurrent rotation changes the digests.
    DELETE FROM :sessions AS s
    USING allowed_user
    WHERE s.id OPERATOR(pg_catalog.=) ANY (:replaced_ids::pg_catalog.uuid[])
    RETURNING s.id
), inserted AS (
    INSERT INTO :sessions AS s (token_digest, user_id, expires_at, remembered, user_agent, ip :value_columns)
    SELECT :digest,
           allowed_user.allowed_user_id,
           pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :lifetime_seconds),
           :remembered,
           :user_agent,
           :ip
           :value_parameters
    FROM allowed_user
    RETURNING s.id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at
)
SELECT pg_catalog.now(), inserted.id, inserted.created_at, inserted.authenticated_at,
       inserted.last_seen_at, inserted.expires_at,
       ARRAY(SELECT r.id FROM replaced AS r),
       pg_catalog.width_bucket(0::pg_catalog.float8, 0, 1, CASE WHEN inserted.id IS NULL THEN 0 ELSE 1 END)
FROM allowed_user
LEFT JOIN inserted ON true
