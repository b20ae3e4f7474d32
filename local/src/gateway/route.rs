//! Finds the function for a request, as an HTTP API does.

use std::cmp::Reverse;

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::template::{Function, Route};

/// All routes, the most specific first.
pub(super) struct Routes(Vec<(Route, String)>);

/// A route that fits a request.
#[derive(Debug, PartialEq)]
pub(super) struct Match<'a> {
    pub(super) function: &'a str,
    pub(super) route: &'a Route,
    /// The path's parameters, decoded.
    pub(super) parameters: Vec<(&'a str, String)>,
}

impl Match<'_> {
    /// The route as the template's author wrote it, such as `GET /accounts/{id}`, or `$default`.
    pub(super) fn key(&self) -> String {
        match self.route.path.as_str() {
            "$default" => "$default".to_owned(),
            path => format!("{} {path}", self.route.method),
        }
    }
}

impl Routes {
    pub(super) fn new(functions: &[Function]) -> Self {
        let routes = functions.iter().flat_map(|f| f.routes.iter().map(|route| (route.clone(), f.binary.clone())));
        let mut routes: Vec<_> = routes.collect();
        routes.sort_by_key(|(route, _)| {
            let literal = route.path.split('/').filter(|segment| parameter(segment).is_none()).count();
            (route.path == "$default", route.path.contains("+}"), Reverse(literal), route.method == "ANY")
        });
        Self(routes)
    }

    pub(super) fn find<'a>(&'a self, method: &Method, path: &str) -> Option<Match<'a>> {
        self.0.iter().filter(|(route, _)| route.method == "ANY" || route.method == method.as_str()).find_map(
            |(route, function)| {
                let parameters = match_path(&route.path, path)?;
                Some(Match { function, route, parameters })
            },
        )
    }
}

fn match_path<'a>(pattern: &'a str, path: &str) -> Option<Vec<(&'a str, String)>> {
    if pattern == "$default" {
        return Some(Vec::new());
    }
    let mut parameters = Vec::new();
    let mut rest = Some(path);
    for expected in pattern.split('/') {
        let here = rest?;
        let (segment, after) = here.split_once('/').map_or((here, None), |(segment, after)| (segment, Some(after)));
        rest = after;
        match parameter(expected) {
            Some(_) if segment.is_empty() => return None,
            Some(name) => match name.strip_suffix('+') {
                Some(name) => {
                    parameters.push((name, decode(here)));
                    rest = None;
                }
                None => parameters.push((name, decode(segment))),
            },
            None if decode(segment) == expected => {}
            None => return None,
        }
    }
    rest.is_none().then_some(parameters)
}

fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// Percent-decodes a part of a path; what is no UTF-8 then becomes the replacement character.
pub(super) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::gateway) fn function(binary: &str, routes: &[&str]) -> Function {
        let route = |text: &&str| {
            let (method, path) = text.split_once(' ').unwrap_or(("ANY", text));
            Route { method: method.to_owned(), path: path.to_owned() }
        };
        Function {
            logical_id: binary.to_uppercase(),
            binary: binary.to_owned(),
            timeout: Duration::from_secs(1),
            opens_secrets: false,
            asks_who_is_due: false,
            only_reads: false,
            reaches_no_database: false,
            asks_providers: false,
            routes: routes.iter().map(route).collect(),
            queues: Vec::new(),
            schedules: Vec::new(),
        }
    }

    fn find(routes: &Routes, method: &str, path: &str) -> Option<(String, Vec<String>)> {
        let method = Method::from_bytes(method.as_bytes()).ok()?;
        let found = routes.find(&method, path)?;
        Some((found.function.to_owned(), found.parameters.into_iter().map(|(_, value)| value).collect()))
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = Routes::new(&[
            function("default", &["$default"]),
            function("all", &["ANY /a"]),
            function("proxy", &["ANY /a/{rest+}"]),
            function("one", &["GET /a/{id}", "GET /a/{id}/b"]),
            function("list", &["GET /a"]),
            function("me", &["GET /a/me"]),
        ]);
        let cases: &[(&str, &str, &str, &[&str])] = &[
            ("GET", "/a", "list", &[]),
            ("POST", "/a", "all", &[]),
            ("GET", "/a/", "default", &[]),
            ("GET", "/a/me", "me", &[]),
            ("GET", "/a/m%65", "me", &[]),
            ("GET", "/a/1%2F2+%ff", "one", &["1/2+\u{fffd}"]),
            ("GET", "/a/1/b", "one", &["1"]),
            ("PUT", "/a/1/2/3", "proxy", &["1/2/3"]),
            ("GET", "/b", "default", &[]),
            ("GET", "//a", "default", &[]),
        ];
        for (method, path, function, parameters) in cases {
            let parameters = parameters.iter().map(ToString::to_string).collect();
            assert_eq!(find(&routes, method, path), Some(((*function).to_owned(), parameters)), "{method} {path}");
        }
    }

    #[test]
    fn without_a_default_route_nothing_else_matches() {
        let routes = Routes::new(&[function("list", &["GET /a"])]);
        assert_eq!(find(&routes, "POST", "/a"), None);
        assert_eq!(find(&routes, "HEAD", "/a"), None);
    }
}
