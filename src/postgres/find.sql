-- Looks up live sessions and their users. Returns one row for each requested digest, live or not,
-- in no particular order.
--
-- The user's part is a separate subquery, so that its names refer to the application's tables and
-- never to the sessions table. Every deciding function and operator is qualified,
-- independent of the search_path. The number of the query is returned, so that the response to an
-- earlier query is detected.
--
-- A corrupt index can lead to the row of another session or user. Therefore the last column is the
-- digest of the row that was found, and null if the user is not the owner. It is in the select list
-- of the subquery itself. If COLUMNS contains an aggregate, the statement then fails; otherwise it
-- would return a row for a user who does not meet the condition.
--
-- The server runs this for every request. The client computes what it can: it applies the absolute
-- limit of the store to created_at.
SELECT asked.asked_digest, :question::pg_catalog.int8 AS question, pg_catalog.pg_is_in_recovery(),
       pg_catalog.now(), live.*
FROM pg_catalog.unnest(:digests::pg_catalog.bytea[]) AS asked (asked_digest)
LEFT JOIN LATERAL (
    SELECT live_session.live_session_id,
           live_session.live_session_created_at,
           live_session.live_session_authenticated_at,
           live_session.live_session_last_seen_at,
           live_session.live_session_expires_at,
           live_session.live_session_user_key,
           live_user.*
    FROM (
        SELECT s.token_digest, s.id, s.user_id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at,
               :user_key
        FROM :sessions AS s
        WHERE s.token_digest OPERATOR(pg_catalog.=) asked.asked_digest
          AND s.expires_at OPERATOR(pg_catalog.>) pg_catalog.now()
          AND :not_idle
        OFFSET 0
    ) AS live_session (
        live_session_token_digest, live_session_id, live_session_user_id, live_session_created_at,
        live_session_authenticated_at, live_session_last_seen_at, live_session_expires_at,
        live_session_user_key
    )
    CROSS JOIN LATERAL (
        SELECT :columns
               , CASE WHEN :key :equals live_session.live_session_user_id
                      THEN live_session.live_session_token_digest END AS live_user_found_digest
        FROM :from
        WHERE :key :equals live_session.live_session_user_id
          AND (:condition)
    ) AS live_user
    OFFSET 0
) AS live ON true
