use crate::visit::{
    Act::{self, Code, Forget, Get, Post, Remember, SignIn, Sql, Swap},
    Rule, Visit, check,
};

const AS_EVE: Act = Post("/impersonate", "email=eve%40example.com");
const STOP: Act = Post("/impersonate/stop", "");
/// An administrator who may act as others.
const ADMIN: &[Act] = &[SignIn("ada"), Code];
const ACTING: &[Act] = &[SignIn("ada"), Code, AS_EVE];
const BANNER: &str = "ada@example.com acts as eve@example.com.";
const ADA: &str = "Signed in as ada@example.com.";
const EVE: &str = "Signed in as eve@example.com.";
const ANONYMOUS: &str = "action=\"/sign-in\"";
const OVER: &str = "The impersonation has ended.";

/// Each line is a rule of impersonation.
const RULES: &[Rule] = &[
    (
        "an administrator acts as a user",
        ADMIN,
        AS_EVE,
        303,
        BANNER,
        2,
    ),
    (
        "without a second factor",
        &[SignIn("ada")],
        AS_EVE,
        403,
        ADA,
        1,
    ),
    (
        "with an old proof",
        &[
            SignIn("ada"),
            Code,
            Sql("UPDATE sessions SET authenticated_at = now() - interval '6 minutes'"),
        ],
        AS_EVE,
        401,
        ADA,
        1,
    ),
    (
        "without being an administrator",
        &[SignIn("eve"), Code],
        Post("/impersonate", "email=ada%40example.com"),
        403,
        EVE,
        1,
    ),
    (
        "as another administrator",
        &[SignIn("ada"), Code, Sql("UPDATE users SET is_admin = true")],
        AS_EVE,
        403,
        ADA,
        1,
    ),
    (
        "as a disabled user",
        &[
            SignIn("ada"),
            Code,
            Sql("UPDATE users SET disabled_at = now() WHERE NOT is_admin"),
        ],
        AS_EVE,
        403,
        ADA,
        1,
    ),
    (
        "as an unknown user",
        ADMIN,
        Post("/impersonate", "email=mallory%40example.com"),
        403,
        ADA,
        1,
    ),
    (
        "as oneself",
        ADMIN,
        Post("/impersonate", "email=ada%40example.com"),
        403,
        ADA,
        1,
    ),
    ("nested, by the guard", ACTING, AS_EVE, 403, BANNER, 2),
    (
        "nested, by the condition",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql("UPDATE sessions SET impersonator_session = id WHERE impersonator_session IS NULL"),
        ],
        Get("/payments"),
        401,
        ANONYMOUS,
        2,
    ),
    (
        "after the administrator's session has ended",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql("DELETE FROM sessions WHERE impersonator_session IS NULL"),
        ],
        Get("/payments"),
        401,
        OVER,
        0,
    ),
    (
        "after the administrator's session has expired",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql("UPDATE sessions SET expires_at = now() WHERE impersonator_session IS NULL"),
        ],
        Get("/payments"),
        401,
        OVER,
        2,
    ),
    (
        "after the administrator's session was idle",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql(
                "UPDATE sessions SET last_seen_at = now() - interval '61 minutes'
                 WHERE impersonator_session IS NULL",
            ),
        ],
        Get("/payments"),
        401,
        OVER,
        2,
    ),
    (
        "before the administrator's session is idle",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql(
                "UPDATE sessions SET last_seen_at = now() - interval '59 minutes'
                 WHERE impersonator_session IS NULL",
            ),
        ],
        Get("/"),
        200,
        BANNER,
        2,
    ),
    (
        "after the administrator was disabled",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql("UPDATE users SET disabled_at = now() WHERE is_admin"),
        ],
        Get("/payments"),
        401,
        OVER,
        2,
    ),
    (
        "after the administrator has lost the right",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql("UPDATE users SET is_admin = false"),
        ],
        Get("/payments"),
        401,
        OVER,
        2,
    ),
    (
        "for more than half an hour",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql(
                "UPDATE sessions SET expires_at = expires_at - interval '30 minutes'
                 WHERE impersonator_session IS NOT NULL",
            ),
        ],
        Get("/payments"),
        401,
        OVER,
        2,
    ),
    (
        "for less than half an hour",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql(
                "UPDATE sessions SET expires_at = expires_at - interval '29 minutes'
                 WHERE impersonator_session IS NOT NULL",
            ),
        ],
        Get("/"),
        200,
        BANNER,
        2,
    ),
    (
        "to change the password",
        ACTING,
        Post("/password", "password=battery+staple"),
        403,
        BANNER,
        2,
    ),
    (
        "to confirm the password",
        ACTING,
        Post("/confirm", "password=correct+horse"),
        403,
        BANNER,
        2,
    ),
    ("to send a code", ACTING, Code, 403, BANNER, 2),
    (
        "to use the administrator's factors",
        ACTING,
        Get("/payments"),
        403,
        BANNER,
        2,
    ),
    (
        "stop returns to the administrator",
        ACTING,
        STOP,
        303,
        ADA,
        1,
    ),
    (
        "stop returns to the administrator after the impersonation has expired",
        &[
            SignIn("ada"),
            Code,
            AS_EVE,
            Sql("UPDATE sessions SET expires_at = now() WHERE impersonator_session IS NOT NULL"),
        ],
        STOP,
        303,
        ADA,
        1,
    ),
    ("stop without an impersonation", ADMIN, STOP, 403, ADA, 1),
    (
        "stop after the administrator's session has ended",
        &[SignIn("ada"), Code, AS_EVE, Sql("DELETE FROM sessions")],
        STOP,
        303,
        ANONYMOUS,
        0,
    ),
    (
        "stop with the kept cookie of another session",
        &[
            SignIn("eve"),
            Remember,
            Forget,
            SignIn("ada"),
            Code,
            AS_EVE,
            Swap("__Host-admin", "__Host-session"),
        ],
        STOP,
        303,
        ANONYMOUS,
        1,
    ),
    (
        "sign-out ends both sessions",
        ACTING,
        Post("/sign-out", ""),
        303,
        ANONYMOUS,
        0,
    ),
    (
        "sign-in ends both sessions",
        ACTING,
        SignIn("eve"),
        303,
        EVE,
        1,
    ),
];

/// P04: an impersonation is refused, limited and ended as each rule says.
#[tokio::test]
async fn each_rule_of_impersonation_holds() {
    check(RULES).await;
}

/// P04: every event of an impersonation has both sessions, and the administrator's has one.
#[tokio::test]
async fn each_event_has_both_sessions() {
    let mut visit = Visit::begin().await;
    for act in ACTING {
        visit.act(*act).await;
    }
    visit.act(STOP).await;
    let events =
        "SELECT string_agg(concat(u.email, ' ', a.event, ' ', admin.email), ', ' ORDER BY a.id)
        FROM sessions_audit AS a
        JOIN users AS u ON u.id::text = a.user_id
        LEFT JOIN sessions AS own ON own.id::text = a.columns ->> 'impersonator_session'
        LEFT JOIN users AS admin ON admin.id = own.user_id";
    let events = visit.database.client().await.query_one(events, &[]).await;
    assert_eq!(
        events.unwrap().get::<_, &str>(0),
        "ada@example.com began , ada@example.com rotated , eve@example.com began ada@example.com, \
         eve@example.com ended ada@example.com"
    );
}
