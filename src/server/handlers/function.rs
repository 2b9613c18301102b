//! The traits of functions that can be handlers.
//!
//! [`Handler`](crate::server::Handler) has one implementation for all numbers of arguments, with
//! its bounds in these traits. So the compiler first finds the number of arguments, and then names
//! the argument or the return type that does not fit. With one implementation for each number, it
//! could only say that the function is no handler.

use crate::server::handlers::{
    extractors::{FromRequest, RequestParts},
    reply::Rejection,
};

/// An async function or closure of 0 to 6 arguments.
///
/// It is implemented for such functions; there is no need to implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not an async function of 0 to 6 arguments",
    note = "a handler is an `async fn`, an async closure, or a closure that returns a future",
    note = "a function that is not async goes through `bellwire::blocking(function)`",
    note = "for more than 6 arguments, implement `FromRequest` for one type that takes several values"
)]
pub trait AsyncFunction<Args> {
    /// The future that it returns.
    type Future: Future;

    /// Calls it.
    fn apply(&self, arguments: Args) -> Self::Future;
}

/// A function or closure of 0 to 6 arguments.
///
/// It is implemented for such functions; there is no need to implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler that may block",
    label = "not a function of 0 to 6 arguments",
    note = "for more than 6 arguments, implement `FromRequest` for one type that takes several values"
)]
pub trait Function<Args> {
    /// What it returns.
    type Output;

    /// Calls it.
    fn apply(&self, arguments: Args) -> Self::Output;
}

/// The arguments of a handler: a tuple of 0 to 6 extractors.
///
/// It is implemented for such tuples; there is no need to implement it.
pub trait Arguments<S>: Sized {
    /// Takes all of them out of a request, from left to right.
    ///
    /// # Errors
    /// The refusal of the first extractor that refuses.
    fn extract(parts: &RequestParts<'_>, state: &S) -> Result<Self, Rejection>;
}

macro_rules! functions {
    ($(($($arg:ident),*))*) => {$(
        impl<F, Fut, $($arg,)*> AsyncFunction<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> Fut,
            Fut: Future,
        {
            type Future = Fut;

            #[allow(non_snake_case, reason = "arguments are named as their types")]
            fn apply(&self, ($($arg,)*): ($($arg,)*)) -> Fut {
                self($($arg),*)
            }
        }

        impl<F, R, $($arg,)*> Function<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> R,
        {
            type Output = R;

            #[allow(non_snake_case, reason = "arguments are named as their types")]
            fn apply(&self, ($($arg,)*): ($($arg,)*)) -> R {
                self($($arg),*)
            }
        }

        impl<S, $($arg: FromRequest<S>,)*> Arguments<S> for ($($arg,)*) {
            #[allow(unused_variables, reason = "without arguments nothing is extracted")]
            fn extract(parts: &RequestParts<'_>, state: &S) -> Result<Self, Rejection> {
                Ok(($($arg::from_request(parts, state)?,)*))
            }
        }
    )*};
}

functions! {
    ()
    (A)
    (A, B)
    (A, B, C)
    (A, B, C, D)
    (A, B, C, D, E)
    (A, B, C, D, E, G)
}
