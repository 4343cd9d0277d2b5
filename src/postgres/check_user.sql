-- One user as a lookup reads it: the columns of find.sql before the user's are null. The row is there if there is
-- no user, so that it names the columns in any case. A second row is one that a lookup would get too.
SELECT :before_user, live_user.*
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT user_row.*
    FROM (SELECT :key FROM :from WHERE (:condition) LIMIT 1) AS chosen (chosen_user_id)
    CROSS JOIN LATERAL (
        SELECT :columns
               , :key :equals chosen.chosen_user_id AS live_user_matches
        FROM :from
        WHERE :key :equals chosen.chosen_user_id
          AND (:condition)
        LIMIT 2
    ) AS user_row
    OFFSET 0
) AS live_user ON true
