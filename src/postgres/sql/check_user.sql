-- Returns one user in the form in which a lookup reads the user. The columns that precede the
-- user's columns in find.sql are null. If there is no user, the result is one row of nulls, which
-- still names the columns. If the result has a second row, a lookup would return two rows too.
-- If there are session columns, the statement chooses a user who has a session.
SELECT :before_user, live_user.*
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT user_row.*
           :found_columns
    FROM :some_session LATERAL (
        SELECT :key FROM :from WHERE (:condition) :of_session LIMIT 1
    ) AS chosen (chosen_user_id)
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
