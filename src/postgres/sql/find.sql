-- Looks up the session and the user of each digest. Returns one row for each digest, live or not,
-- in no particular order.
--
-- The user's part is a separate subquery. Names in it can refer only to the application's tables
-- and never to the sessions table. Outside the application's expressions, every operator and
-- function is schema-qualified. Therefore the search_path does not change the result. Each row
-- repeats the number of the query. Therefore the client detects a row of an earlier query.
--
-- A corrupt index can lead to the row of another session or user. Therefore the server compares the
-- digest and the key of the rows that it found once more. If one of them differs,
-- live_session_created_at is null, and the client fails the lookup. This column is in the select
-- list of the user's subquery. Therefore the statement fails if COLUMNS contains an aggregate.
-- Without this column, an aggregate would yield a row for a user who does not meet the condition.
--
-- The condition is in a CASE. On a small table the server may evaluate the condition for every user
-- before it compares the keys. Without the CASE, a condition that raises an error for one user
-- would fail the lookups of all users. The CASE accepts the row of another user, to which a corrupt
-- index can lead. The second comparison then makes this row an error.
--
-- The server runs this statement for every request. The client applies the expiry, the idle limit
-- and the absolute limit of the store to the times that the statement returns. These times include
-- the server's now().
SELECT asked.asked_digest, :query_seq::pg_catalog.int8 AS query_seq, pg_catalog.pg_is_in_recovery(),
       pg_catalog.now(), live.*
FROM pg_catalog.unnest(:digests::pg_catalog.bytea[]) AS asked (asked_digest)
LEFT JOIN LATERAL (
    SELECT live_session.live_session_id,
           live_session.live_session_authenticated_at,
           live_session.live_session_last_seen_at,
           live_session.live_session_expires_at,
           live_user.*:found_columns
    FROM (
        SELECT s.token_digest, s.id, s.user_id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at:stored_columns
        FROM :sessions AS s
        WHERE s.token_digest OPERATOR(pg_catalog.=) asked.asked_digest
        OFFSET 0
    ) AS live_session (
        live_session_token_digest, live_session_id, live_session_user_id, live_session_created_at,
        live_session_authenticated_at, live_session_last_seen_at, live_session_expires_at:session_columns
    )
    CROSS JOIN LATERAL (
        SELECT :columns
               , CASE WHEN :key :equals live_session.live_session_user_id
                       AND live_session.live_session_token_digest OPERATOR(pg_catalog.=) asked.asked_digest
                      THEN live_session.live_session_created_at END AS live_session_created_at
               :user_key_column
        FROM :from
        WHERE :key :equals live_session.live_session_user_id
          AND CASE WHEN :key :equals live_session.live_session_user_id THEN (:condition) ELSE true END
    ) AS live_user
    OFFSET 0
) AS live ON true
