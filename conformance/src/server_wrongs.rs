//! The mistakes that a wrong server makes: each has a name, and a short function over lines.

mod accepting;
mod delivering;
mod ending;
mod frames;
mod keys;
mod lines;
mod parts;
mod requests;
mod streams;
mod topics;

use crate::server_wrong::Wrong;

const fn server(
    name: &'static str,
    what: &'static str,
    act: fn(&mut crate::server_proxy::Flow, &str),
) -> Wrong {
    Wrong::new(name, what).server(act)
}

const fn client(
    name: &'static str,
    what: &'static str,
    act: fn(&mut crate::server_proxy::Flow, &str),
) -> Wrong {
    Wrong::new(name, what).client(act)
}

/// All of them. `server` takes the server's lines, `client` those of the client.
pub const WRONGS: &[Wrong] = &[
    Wrong::new("nothing", "passes everything on: the cases pass"),
    // Lines.
    server("waits-for-the-client", "greets once the client has spoken", lines::hold_hello)
        .client(lines::say_hello),
    server("says-little-in-hello", "does not announce its places", lines::hide_places),
    server("stuffs-twice", "stuffs what is stuffed", lines::stuff_twice),
    server("does-not-stuff", "writes CR and DLE as they are", lines::leave_plain),
    client("unstuffs-twice", "unstuffs what came out of unstuffing", lines::unstuff_twice),
    server("stuffs-too-much", "stuffs NUL, too", lines::stuff_nul),
    server("loses-bytes-above-7e", "takes payloads for ASCII", lines::lose_high_bytes),
    client("collapses-spaces", "splits payloads at runs of SP", lines::collapse),
    server("writes-the-sp-of-an-empty-rest", "writes a SP before nothing", lines::add_sp),
    client("keeps-the-cr", "takes the CR before the LF for payload", lines::keep_cr),
    client("drops-all-crs", "drops each CR at the end of a line", lines::drop_crs),
    client("accepts-raw-crs", "takes a raw CR in the rest", lines::take_raw_crs),
    server("writes-crlf", "ends its lines with CR LF", lines::add_cr),
    client("splits-at-vt", "ends lines at VT, too", lines::split_at_vt),
    Wrong::new("reads-one-line-of-a-write", "drops what follows a LF in what it reads")
        .chunks(lines::first_line_only),
    Wrong::new("acts-on-pieces", "takes what it reads for a line").chunks(lines::end_at_writes),
    Wrong::new("completes-unfinished-lines", "acts on bytes without a LF at the end")
        .at_client_end(lines::complete),
    server("drops-long-lines", "does not write lines above 900 bytes", lines::drop_long),
    client("ignores-the-clients-limit", "forgets the client's max-line", lines::forget_max_line),
    server("sends-what-it-has", "writes lines over the limit", lines::send_all),
    client("refuses-keys-with-a-dot", "knows no hints", lines::rename_dotted),
    client("answers-a-bad-first-line", "names a fault in the first line", lines::answer_first),
    // Requests.
    server("says-err-for-no", "says `err` for what was not started", requests::err_for_no),
    server("says-no-for-err", "says `no` for what has failed", requests::no_for_err),
    server("says-no-for-cut", "says `no` for what may have run", requests::no_for_cut),
    server("says-ok-for-err", "says `ok` for what has failed", requests::ok_for_err),
    server("wrong-codes", "refuses with a code of its own", requests::other_codes),
    server("wrong-error-codes", "has a code of its own for errors", requests::other_error_codes),
    server("accepts-a-late-hello", "takes a hello at any time", requests::take_late_hello),
    server("takes-any-version", "takes a hello of any version", requests::take_any_version),
    server("allows-everything", "accepts what is forbidden", requests::allow_all),
    server("lets-everyone-in", "accepts what needs authentication", requests::let_in),
    server("serves-behind-the-line", "accepts what is above the last id", requests::serve_on),
    server("forbids-when-busy", "says `forbidden` when it cannot decide", requests::forbid),
    server("takes-short-names", "takes no names of 128 bytes", requests::short_names),
    server("hides-errors", "writes no `/error`", requests::hide_errors),
    server("hides-cuts", "writes no `cut`", requests::hide_cuts),
    server("forgets-replies", "writes no `ok` for most methods", requests::hide_oks),
    server("gives-no-hint", "leaves out `retry`", requests::hide_retry),
    server("id-errors-without-an-id", "leaves out the id of an error", requests::hide_ids),
    server("closes-at-faults", "closes at a malformed line", requests::close_at_faults),
    server("closes-at-refusals", "closes when it refuses", requests::close_at_refusals),
    server("dies-with-a-handler", "closes when a handler panics", requests::close_at_panics),
    server("answers-falling-ids", "executes a request whose id falls", requests::answer_falling),
    server(
        "loses-requests-at-id-order",
        "forgets the request whose id is repeated",
        requests::lose_repeated,
    ),
    server("mixes-up-ids", "answers under another id", requests::next_id),
    server("answers-twice", "writes each terminal line twice", requests::answer_twice),
    client("one-at-a-time", "reads on once a request is answered", requests::hold_calls)
        .server(requests::release_calls),
    client("refuses-when-full", "has one place, and refuses further ones", requests::refuse_second)
        .server(requests::count_down),
    client("answers-at-once", "starts `echo` without a place", requests::echo_at_once),
    client("drops-the-rest", "does not look at arguments that it needs not", requests::drop_rest),
    client("answers-one-ways", "tells of one-way requests", requests::tell_of_one_ways),
    client("swaps-neighbours", "starts requests out of order", requests::swap_notes),
    client("runs-one-ways-twice", "starts a one-way request twice", requests::note_twice),
    server("lists-methods-unsorted", "does not sort methods", requests::unsort_methods),
    client("forgets-ttl", "knows no deadlines", requests::forget_ttl),
    client("ignores-cancel", "does not cancel", requests::drop_cancels),
    client("answers-cancel-itself", "answers and lets the handler run", requests::cancel_itself),
    client("answers-every-cancel", "has a line for each cancel", requests::answer_cancels),
    client("quits-early", "answers a quit before the rest", requests::quit_early),
    client("reads-on-behind-quit", "acts on what follows a quit", requests::delay_quit),
    client("looks-ahead", "looks at lines before the auth is answered", requests::look_ahead),
    server("swaps-replies", "answers protocol methods out of order", requests::swap_renewals),
    // Keys.
    server("hides-its-keys", "does not announce its keys", keys::hide_keys),
    client("forgets-keys", "runs each repeat", keys::forget_keys),
    server("takes-a-key-for-anything", "accepts another use of a key", keys::ignore_mismatch),
    server("uses-up-refused-keys", "remembers refused keys", keys::note_refused)
        .client(keys::refuse_noted),
    // The ends of connections.
    Wrong::new("stays-open", "does not close").ignores_server_end(),
    Wrong::new("ignores-half-close", "does not see a half-close").ignores_client_end(),
    Wrong::new("closes-at-half-close", "closes at once at a half-close")
        .at_client_end(requests::over),
    Wrong::new("keeps-handlers-of-the-lost", "does not see that a connection is lost")
        .ignores_client_end(),
    server("no-bye-with-last", "does not say where it draws the line", streams::hide_last),
    server("no-first-bye", "does not say that it will stop", streams::hide_first),
    server("wrong-last", "names another last id", streams::wrong_last),
    server("draws-the-line-at-once", "has no grace", streams::draw_at_once),
    // Topics.
    server("forgets-notifications", "loses each second notification", topics::forget_some),
    server("doubles-notifications", "delivers each message twice", topics::double),
    server("shifts-numbers", "numbers messages from 2", topics::shift),
    server("wrong-head", "says another head", topics::wrong_head),
    server("wrong-next", "begins at another number", topics::wrong_next),
    server("says-another-lease", "says another lease than it has", topics::wrong_lease),
    server("wrong-seq-of-publish", "says another number to a publisher", topics::wrong_seq),
    server("wrong-position-of-unsubscribe", "names another position", topics::wrong_left),
    server("wrong-end", "ends at another position", topics::wrong_end),
    server("notifies-before-the-reply", "replays before it answers", topics::hold_resumed),
    server("notifies-behind-unsubscribe", "goes on behind the reply", topics::notify_left),
    server("goes-on-behind-an-end", "goes on behind an `/end`", topics::notify_ended),
    server("sends-all-topics", "sends what nobody subscribed to", topics::notify_all),
    Wrong::new("notifies-behind-half-close", "delivers behind a half-close")
        .at_client_end(topics::notify_late),
    server("ends-what-is-doubled", "ends what is subscribed to twice", topics::end_doubled),
    server(
        "notifies-between-requests",
        "delivers nothing while a request runs",
        topics::hold_notifications,
    )
    .client(topics::count_calls),
    client("swaps-publishes", "numbers messages out of order", topics::swap_payloads),
    server("hides-gaps", "writes no `/gap`", topics::hide_gaps),
    server("hides-resets", "writes no `/reset`", topics::hide_resets),
    server("hides-ends", "writes no `/end`", topics::hide_ends),
    server("names-too-little", "names one number of a gap", topics::short_gaps),
    server("lists-unsorted", "lists in another order", topics::unsort_list),
    server("lists-too-much", "lists numbers that did not come", topics::list_too_much),
    server("answers-renew-itself", "renews no lease", topics::note_epoch)
        .client(topics::renew_itself),
    server("keeps-the-epoch", "has one epoch for ever", topics::one_epoch),
    server("changes-epochs", "says a new epoch each time", topics::new_epochs),
    client("ignores-from", "does not resume", topics::forget_from),
    client("ignores-last", "does not begin with the last messages", topics::forget_last),
    client("forgets-the-policy", "knows no policy for the slow", topics::forget_slow),
    server("ends-behind-quit", "ends subscriptions at a quit", topics::end_at_quit),
    client("loses-acks", "does not look at acks", topics::drop_acks),
    client("answers-acks", "has a line for each ack", topics::answer_acks),
    server(
        "answers-behind-notifications",
        "lets replies wait for notifications",
        topics::hold_echo,
    ),
    server("hides-after", "leaves out `after`", topics::hide_after),
    server("says-after-always", "says `after` to all", topics::add_after),
    // Streams.
    server("swaps-items", "sends items out of order", streams::swap_items),
    client("ignores-windows", "does not look at windows", streams::forget_windows),
    client("gives-credit-by-itself", "does not count credit", streams::give_credit),
    client("loses-credit", "does not look at `/more`", streams::drop_credit),
    server("ends-streams-early", "ends a stream without being asked", streams::end_at_three),
    server("answers-behind-streams", "lets replies wait for a stream", streams::hold_replies),
    server("holds-items-back", "sends items at the end", streams::hold_items),
    client("answers-every-more", "has a line for each `/more`", streams::answer_credit),
    client("refuses-windows", "knows windows for streams alone", streams::refuse_windows),
    // One rule of refusals.
    server("takes-malformed-lines", "accepts requests that are malformed", accepting::malformed),
    server("takes-any-head", "has no limit for heads", accepting::long_heads),
    client(
        "takes-keys-twice",
        "drops all but the first of a repeated key",
        accepting::repeated_keys,
    ),
    server(
        "takes-the-words-for-methods",
        "takes `ok` for a name of a method",
        accepting::five_words,
    ),
    server("takes-any-key", "accepts keys that it does not know", accepting::keys),
    server("takes-any-value", "accepts values of another form", accepting::values),
    server("takes-any-arguments", "accepts arguments that do not decode", accepting::arguments),
    server("checks-values-first", "looks at values before keys", accepting::values_first),
    server(
        "authenticates-everybody",
        "has an `/auth` that it does not ask for",
        accepting::everybody,
    ),
    server("authenticates-again", "accepts a second `/auth`", accepting::second_auth),
    server("lets-all-publish", "accepts each `/publish`", accepting::publishing),
    server(
        "publishes-what-is-too-large",
        "accepts messages that nobody can read",
        accepting::large_payloads,
    ),
    server("has-no-limits", "accepts what is too many", accepting::too_many),
    server("is-never-full", "accepts requests when its buffers are full", accepting::when_full),
    server("begins-without-a-log", "accepts a subscribe without a log", accepting::without_log),
    server("forgets-revoked-topics", "accepts a subscribe to what is revoked", accepting::revoked),
    server(
        "accepts-a-second-subscribe",
        "has two subscriptions to a topic",
        accepting::second_subscribe,
    ),
    server("leaves-what-is-not-there", "accepts a void unsubscribe", accepting::void_unsubscribe),
    server(
        "takes-acks-of-too-much",
        "accepts acks above what was delivered",
        accepting::acks_of_too_much,
    ),
    server(
        "silent-about-malformed-lines",
        "writes no `/error malformed`",
        accepting::hide_malformed,
    ),
    server(
        "silent-about-long-lines",
        "writes no `/error line-too-long`",
        accepting::hide_long_lines,
    ),
    server(
        "silent-about-arguments",
        "writes no `/error bad-arguments`",
        accepting::hide_bad_arguments,
    ),
    server("forbids-in-silence", "writes no `/error forbidden`", accepting::hide_forbidden),
    client("skips-empty-lines", "takes an empty line for none", accepting::skip_empty_lines),
    client("takes-greater-ids", "takes ids above 2^53-1", accepting::greater_ids),
    client("starts-what-it-refuses", "starts a handler and refuses then", accepting::start_refused),
    server("refuses-acks-with-an-id", "takes acks one-way only", accepting::acks_as_requests),
    server("refuses-hellos", "knows no hello of a client", accepting::hellos),
    client("refuses-topics-like-words", "knows no topic `ok`", accepting::topics_like_words),
    server("refuses-empty-topics", "knows no topic without messages", accepting::empty_topics),
    client(
        "refuses-foreign-epochs",
        "refuses a position of another epoch",
        accepting::foreign_epochs,
    ),
    client("refuses-what-was-revoked", "refuses what was revoked once", accepting::revoked_topics)
        .server(accepting::note_revoked),
    server("forgets-authentication", "forgets who has authenticated", accepting::forget_auth),
    client("lists-in-one-line", "does not know `list=more`", accepting::lists_in_pages),
    server("says-no-hold", "writes no `/hold`", accepting::silent_about_holds),
    // One rule of beginnings and ends.
    server("waits-for-items", "ends no stream that has no item", ending::wait_for_items),
    server("cuts-what-has-a-ttl", "ends what has a ttl too early", ending::cut_in_time),
    server("drops-what-waits", "closes before what waits is started", ending::drop_waiting),
    server("closes-at-the-line", "closes with its last id", ending::close_at_the_line),
    client("delays-other-connections", "serves one connection at a time", ending::take_no_other)
        .server(ending::take_others_again),
    server("buffers-without-bound", "takes each reply, read or not", ending::lengthen)
        .client(ending::shorten),
    client("asks-ahead", "asks for an item before there is credit", ending::ask_ahead),
    server(
        "ends-requests-with-the-lease",
        "ends requests with the lease",
        ending::cut_at_the_lease,
    ),
    // One rule of deliveries.
    server(
        "loses-messages-behind-replies",
        "loses the message behind a reply",
        delivering::lose_behind_a_reply,
    ),
    server(
        "stops-short-of-the-head",
        "loses the last message of a replay",
        delivering::stop_short_of_the_head,
    ),
    server("leaves-for-all", "leaves a topic for all connections", delivering::leave_for_all),
    server("delivers-to-one", "delivers to the first subscriber", delivering::serve_the_first),
    server(
        "has-an-epoch-for-each",
        "says another epoch to each connection",
        delivering::own_epochs,
    ),
    server("names-instead-of-delivering", "names what it could deliver", delivering::name_instead),
    server(
        "ends-what-waits",
        "ends a slow subscription that has lost nothing",
        delivering::end_what_waits,
    ),
    server(
        "stops-delivering-at-the-line",
        "delivers nothing behind its last id",
        delivering::stop_at_the_line,
    ),
    server(
        "has-one-window-for-all",
        "counts all topics in one window",
        delivering::share_the_window,
    ),
    server(
        "keeps-windows",
        "keeps the window of a subscription that was left",
        delivering::keep_windows,
    ),
    server("counts-gaps", "counts a gap in the window", delivering::count_gaps),
    server(
        "drops-what-is-too-large",
        "does not name what is too large",
        delivering::hide_what_is_large,
    ),
    server("hides-the-head-of-ends", "ends without a head", delivering::hide_head_of_ends),
    server(
        "lists-an-empty-page",
        "writes a line for an empty list",
        delivering::list_an_empty_page,
    ),
    client(
        "resumes-one-late",
        "takes a position for the last number seen",
        delivering::resume_one_late,
    ),
    client("replays-from-1", "replays all of an epoch", delivering::replay_from_1),
    client(
        "replays-without-a-window",
        "knows no window for a replay",
        delivering::replay_without_window,
    ),
    client(
        "compares-beginnings-of-epochs",
        "takes a longer epoch for its own",
        delivering::compare_beginnings,
    )
    .server(delivering::know_epoch),
    server(
        "resumes-beyond-the-head",
        "accepts a position that is not there yet",
        delivering::go_to_the_head,
    ),
    // WebSockets.
    Wrong::new("needs-no-subprotocol", "accepts requests for other subprotocols")
        .ws(frames::ask_for_it),
    Wrong::new("echoes-no-subprotocol", "names no subprotocol").ws(frames::echo_nothing),
    Wrong::new("accepts-extensions", "says that it compresses").ws(frames::compress),
    Wrong::new("accepts-any-origin", "ignores `Origin`").ws(frames::forget_origin),
    Wrong::new("ignores-ports-of-origins", "compares only hosts").ws(frames::forget_port),
    Wrong::new("takes-text-messages", "acts on text messages").ws(frames::take_text),
    Wrong::new("completes-half-lines", "takes the end of a message for that of a line")
        .ws(frames::complete_lines),
    Wrong::new("needs-no-mask", "acts on frames without a mask").ws(frames::mask),
    Wrong::new("cuts-control-frames", "takes long control frames").ws(frames::cut_control_frames),
    Wrong::new("ignores-reserved-bits", "ignores reserved bits").ws(frames::clear_reserved_bits),
    Wrong::new("ends-messages-at-frames", "takes each frame for a message")
        .ws(frames::end_at_frames),
    Wrong::new("ignores-close-frames", "does not answer a close frame").ws(frames::ignore_close),
    Wrong::new("lives-by-pings", "takes pings for lines").ws(frames::live_by_pings),
    Wrong::new("answers-no-pings", "writes no pongs").ws(frames::drop_pongs),
    Wrong::new("closes-without-a-close-frame", "writes no close frame").ws(frames::drop_close),
    Wrong::new("closes-normally", "closes with 1000 after a fault").ws(frames::close_normally),
    Wrong::new("writes-text-messages", "writes text messages").ws(frames::write_text),
    Wrong::new("cuts-messages", "cuts lines over messages").ws(frames::cut_messages),
];
