SELECT asked.asked_digest, $2::pg_catalog.int8 AS query_seq, pg_catalog.pg_is_in_recovery(),
       pg_catalog.now(), live.*
FROM pg_catalog.unnest($1::pg_catalog.bytea[]) AS asked (asked_digest)
LEFT JOIN LATERAL (
    SELECT live_session.live_session_id,
           live_session.live_session_authenticated_at,
           live_session.live_session_last_seen_at,
           live_session.live_session_expires_at,
           live_user.*
    FROM (
        SELECT s.token_digest, s.id, s.user_id, s.created_at, s.authenticated_at, s.last_seen_at, s.expires_at
        FROM "sessions" AS s
        WHERE s.token_digest OPERATOR(pg_catalog.=) asked.asked_digest
        OFFSET 0
    ) AS live_session (
        live_session_token_digest, live_session_id, live_session_user_id, live_session_created_at,
        live_session_authenticated_at, live_session_last_seen_at, live_session_expires_at
    )
    CROSS JOIN LATERAL (
        SELECT u.id
               , CASE WHEN u.id OPERATOR("pg_catalog".=) live_session.live_session_user_id
                       AND live_session.live_session_token_digest OPERATOR(pg_catalog.=) asked.asked_digest
                      THEN live_session.live_session_created_at END AS live_session_created_at
               
        FROM users AS u
        WHERE u.id OPERATOR("pg_catalog".=) live_session.live_session_user_id
          AND CASE WHEN u.id OPERATOR("pg_catalog".=) live_session.live_session_user_id THEN (true) ELSE true END
    ) AS live_user
    OFFSET 0
) AS live ON true
