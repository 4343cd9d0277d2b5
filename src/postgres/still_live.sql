-- Which of these sessions a lookup would find, and for how many seconds more if nobody uses them.
SELECT s.id,
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.date_part('epoch', least(
           s.expires_at OPERATOR(pg_catalog.-) pg_catalog.now(),
           s.last_seen_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :idle_seconds)
               OPERATOR(pg_catalog.-) pg_catalog.now()))
FROM :sessions AS s
WHERE s.id OPERATOR(pg_catalog.=) ANY (:ids::pg_catalog.uuid[])
  AND :live
  AND EXISTS (SELECT FROM :from WHERE :key = s.user_id AND (:condition))
