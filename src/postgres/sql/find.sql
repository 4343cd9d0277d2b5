-- Whose sessions are these? One row for every digest asked, live or not, in no promised order.
--
-- The user's part is a subquery of its own: the names in it are the application's tables' and never
-- the sessions'. What decides is pg_catalog's, whatever the search_path says. The question's number comes
-- back, so that no answer to an earlier question passes for this one's.
--
-- A corrupt index can lead to the row of another session or user. The server therefore compares the digest and the key
-- in the rows that were found once more, for live_session_created_at: a session without it is an error. The column stands
-- in the subquery's own select list: if COLUMNS contained an aggregate, this would be an error, and not a row for a user
-- who does not meet the condition.
--
-- The condition stands in a CASE. On a small table the server may evaluate it for every user before it compares the keys.
-- Without the CASE, a condition that raises an error for one user would fail the lookups of all. Another user's row, to
-- which a corrupt index can lead, passes it and becomes an error.
--
-- The server runs this for every request. The client applies the expiry, the idle limit and the absolute limit of the
-- store to the times that this returns, among them the server's now().
SELECT asked.asked_digest, :query_seq::pg_catalog.int8 AS query_seq, pg_catalog.pg_is_in_recovery(),
       pg_catalog.now(), live.*
FROM pg_catalog.unnest(:digests::pg_catalog.bytea[]) AS asked (asked_digest)
LEFT JOIN LATERAL (
    SELECT live_session.live_session_id,
           live_session.live_session_authenticated_at,
           live_session.live_session_last_seen_at,
           live_session.live_session_expires_at,
           live_user.*
    FROM (
        SELECT s.token_digest, s.id, s.user_id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at
        FROM :sessions AS s
        WHERE s.token_digest OPERATOR(pg_catalog.=) asked.asked_digest
        OFFSET 0
    ) AS live_session (
        live_session_token_digest, live_session_id, live_session_user_id, live_session_created_at,
        live_session_authenticated_at, live_session_last_seen_at, live_session_expires_at
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
