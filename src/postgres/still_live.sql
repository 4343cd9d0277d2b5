-- For how many seconds more a lookup would find each of these sessions if nobody uses it; null where none would.
-- A row for each that is asked about, so that a server in recovery says so whatever it holds.
SELECT asked.id,
       pg_catalog.pg_is_in_recovery(),
       (
           SELECT pg_catalog.date_part('epoch', least(
               :ends_at OPERATOR(pg_catalog.-) pg_catalog.now(),
               s.last_seen_at OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => :idle_seconds)
                   OPERATOR(pg_catalog.-) pg_catalog.now()))
           FROM :sessions AS s
           WHERE s.id OPERATOR(pg_catalog.=) asked.id
             AND :live
             AND EXISTS (SELECT FROM :from WHERE :key :equals s.user_id AND (:condition))
       )
FROM pg_catalog.unnest(:ids::pg_catalog.uuid[]) AS asked (id)
