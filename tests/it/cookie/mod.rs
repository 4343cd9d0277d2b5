//! The session cookie: reading it, writing it, and caches.

mod browser_model;
mod cache_headers;
mod reading;
mod several_cookies;
mod several_lookups;
mod writing;
