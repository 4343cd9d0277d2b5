//! Verification of a logout token (OpenID Connect Back-Channel Logout 1.0, section 2.6).

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde::Deserialize;
use serde_json::{Map, Value};
use tower_user_session::BoxError;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The algorithms of this provider. The header of a token never adds to them.
const ALGORITHMS: &[Algorithm] = &[Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256];
/// How far the clocks may differ, in seconds.
const LEEWAY: u64 = 30;

/// The provider, and this application's name there.
#[derive(Clone)]
pub(crate) struct Provider {
    keys: Arc<HashMap<String, DecodingKey>>,
    validation: Arc<Validation>,
}

/// The sessions that a verified token ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogoutToken {
    pub(crate) jti: String,
    /// The time after which the token is invalid by itself, in seconds since 1970.
    pub(crate) expires_at: u64,
    pub(crate) sub: Option<String>,
    pub(crate) sid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    exp: u64,
    iat: u64,
    sub: Option<String>,
    sid: Option<String>,
    events: HashMap<String, Map<String, Value>>,
    nonce: Option<Value>,
}

impl Provider {
    /// Reads the provider's keys, a JSON Web Key Set. An application fetches the set again when a
    /// token names an unknown key.
    pub(crate) fn new(issuer: String, client: String, jwks: &[u8]) -> Result<Self, BoxError> {
        let set: JwkSet = serde_json::from_slice(jwks)?;
        let mut keys = HashMap::new();
        for key in &set.keys {
            let id = key.common.key_id.clone().ok_or("a key has no id")?;
            keys.insert(id, DecodingKey::from_jwk(key)?);
        }
        // `verify` sets the algorithm.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY;
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[client]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(Self {
            keys: Arc::new(keys),
            validation: Arc::new(validation),
        })
    }

    /// Verifies the signature and the claims. The reason of a rejection is for the log.
    pub(crate) fn verify(&self, token: &str) -> Result<LogoutToken, BoxError> {
        let header = decode_header(token)?;
        let id = header.kid.ok_or("the token names no key")?;
        let key = self.keys.get(&id).ok_or("the key is unknown")?;
        // All algorithms of one validation must fit the key.
        if !ALGORITHMS.contains(&header.alg) {
            return Err("the algorithm is not the provider's".into());
        }
        let mut validation = Validation::clone(&self.validation);
        validation.algorithms = vec![header.alg];
        let claims = decode::<Claims>(token, key, &validation)?.claims;
        if claims.iat > jsonwebtoken::get_current_timestamp() + LEEWAY {
            return Err("the token is from the future".into());
        }
        if !claims.events.contains_key(EVENT) {
            return Err("the token is not a logout token".into());
        }
        // An ID token has one. It must not work as a logout token.
        if claims.nonce.is_some() {
            return Err("the token has a nonce".into());
        }
        if claims.sub.is_none() && claims.sid.is_none() {
            return Err("the token names neither a user nor a session".into());
        }
        Ok(LogoutToken {
            jti: claims.jti,
            expires_at: claims.exp + LEEWAY,
            sub: claims.sub,
            sid: claims.sid,
        })
    }
}
