// Streams and events of the stand-in driver: queues that run only when somebody waits.
//
// A piece of work waits for the work before it in its stream, for events its stream was told to wait for,
// and, around the null stream, for the work of all blocking streams. Nothing else has an order.
#include <string.h>
#include <time.h>

#include <set>

#include "state.h"

namespace {

Handles<Stream> streams(1);
Handles<Event> events(2);

// Host ranges that queued copies will read: a result that lands there must not be announced by poison.
std::vector<std::weak_ptr<Command>> readers;

double milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}

uint64_t hash_host(const void *from, size_t bytes) {
  std::vector<unsigned char> copy(bytes);
  if (!copy_from_host(copy.data(), from, bytes)) return 0;
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char byte : copy) hash = (hash ^ byte) * 0x100000001b3u;
  return hash;
}

bool will_be_read(const void *address, size_t bytes) {
  const char *first = (const char *)address;
  bool found = false;
  std::vector<std::weak_ptr<Command>> left;
  for (auto &weak : readers) {
    auto command = weak.lock();
    if (!command || command->done) continue;
    left.push_back(weak);
    for (auto &[work, hash] : command->sources) {
      const char *other = (const char *)work->host_read;
      found |= first < other + work->host_bytes && other < first + bytes;
    }
  }
  readers = left;
  return found;
}

void run(Command &command) {
  auto context = current_context();
  if (context && !context->lost) {
    for (auto &[work, hash] : command.sources)
      if (hash_host(work->host_read, work->host_bytes) != hash)
        complain(SUCCESS, "%s: its host buffer changed before the copy ran", work->what.c_str());
    CUresult status = command.work.run ? command.work.run() : SUCCESS;
    if (status) context->lost = status;
  }
  command.done = true;
  command.finished = milliseconds();
  command.after.clear();
  command.sources.clear();
  command.owner.reset();
  command.work = Work();
}

std::shared_ptr<Event> event_of(Handle handle) {
  auto event = events.find(handle);
  return event && event->context == current_context_id() ? event : nullptr;
}

bool in_live_capture(const Event &event) { return event.in_capture; }

CUresult make_stream(Handle *out, unsigned flags, int priority) {
  if (!out || flags > 1) return INVALID_VALUE;
  auto stream = std::make_shared<Stream>();
  stream->context = current_context_id();
  stream->flags = flags;
  stream->priority = priority;
  stream->handle = *out = streams.add(stream);
  current_context()->streams.push_back(stream);
  return SUCCESS;
}

}  // namespace

std::shared_ptr<Stream> null_stream() {
  static std::map<int, std::shared_ptr<Stream>> all;
  auto &stream = all[current_context_id()];
  if (!stream) {
    stream = std::make_shared<Stream>();
    stream->context = current_context_id();
    stream->flags = 0;
    stream->priority = 0;
    stream->handle = nullptr;
  }
  return stream;
}

// 0 and 1 are the null stream; the stream of each thread (2) is not made here.
std::shared_ptr<Stream> stream_of(Handle handle) {
  if ((uint64_t)handle <= 1) return null_stream();
  auto stream = streams.find(handle);
  return stream && stream->context == current_context_id() ? stream : nullptr;
}

std::vector<std::shared_ptr<Stream>> live_streams() { return current_context()->streams; }

CommandPtr enqueue(const std::shared_ptr<Stream> &stream, Work work, std::vector<const Work *> parts,
                   std::shared_ptr<void> owner) {
  auto context = current_context();
  auto command = std::make_shared<Command>();
  command->work = std::move(work);
  command->owner = std::move(owner);
  if (parts.empty()) parts.push_back(&command->work);
  for (const Work *part : parts) {
    if (part->host_write && !will_be_read(part->host_write, part->host_bytes))
      poison_host(part->host_write, part->host_bytes);
    if (part->host_read)
      command->sources.push_back({part, hash_host(part->host_read, part->host_bytes)});
  }
  if (!command->sources.empty()) readers.push_back(command);
  auto wait_for = [&](const CommandPtr &other) {
    if (other && !other->done) command->after.push_back(other);
  };
  wait_for(stream->tail);
  if (!stream->handle) {
    for (auto &other : context->streams)
      if (!(other->flags & 1)) wait_for(other->tail);
    context->null_tail = command;
  } else if (!(stream->flags & 1)) {
    wait_for(context->null_tail);
  }
  stream->tail = command;
  return command;
}

CUresult submit(const std::shared_ptr<Stream> &stream, Work work) {
  if (stream->capture) {
    if (stream->capture->invalid) return CAPTURE_INVALIDATED;
    auto &nodes = stream->capture->nodes;
    nodes.push_back(Node{std::move(work), stream->capture_tail});
    stream->capture_tail = {nodes.size() - 1};
    return SUCCESS;
  }
  if (!stream->handle)
    for (auto &other : current_context()->streams)
      if (other->capture && !(other->flags & 1)) {
        other->capture->invalid = true;
        return complain(CAPTURE_IMPLICIT, "%s on the null stream while a blocking stream is captured",
                        work.what.c_str());
      }
  enqueue(stream, std::move(work), {}, nullptr);
  return SUCCESS;
}

CUresult finish(const CommandPtr &goal, int steps) {
  auto context = current_context();
  if (!goal || goal->done) return context->lost;
  DeviceAccess access;
  std::vector<CommandPtr> stack{goal};
  for (int ran = 0; !stack.empty();) {
    CommandPtr command = stack.back();
    bool waits = false;
    if (!command->done)
      for (auto &other : command->after)
        if (!other->done) {
          stack.push_back(other);
          waits = true;
        }
    if (waits) continue;
    stack.pop_back();
    if (command->done) continue;
    run(*command);
    if (steps > 0 && ++ran >= steps) break;
  }
  return context->lost;
}

CUresult finish_context() {
  auto context = current_context();
  std::vector<CommandPtr> tails = context->loose;
  for (auto &stream : context->streams) tails.push_back(stream->tail);
  tails.push_back(context->null_tail);
  if (setting("SIM_ORDER", "forward") == "reverse") tails = {tails.rbegin(), tails.rend()};
  for (auto &tail : tails) finish(tail);
  context->loose.clear();
  return context->lost;
}

// ---- streams ---------------------------------------------------------------------------------------------

EXPORT CUresult cuStreamCreate(Handle *out, unsigned flags) {
  ENTER(CONTEXT);
  return make_stream(out, flags, 0);
}

EXPORT CUresult cuStreamCreateWithPriority(Handle *out, unsigned flags, int priority) {
  ENTER(CONTEXT);
  return make_stream(out, flags, priority < -5 ? -5 : priority > 0 ? 0 : priority);
}

EXPORT CUresult cuStreamDestroy_v2(Handle handle) {
  ENTER(CONTEXT);
  auto stream = (uint64_t)handle > 1 ? stream_of(handle) : nullptr;
  if (!stream) return complain(INVALID_HANDLE, "cuStreamDestroy: not a stream of this context");
  if (stream->capture) stream->capture->invalid = true;
  auto context = current_context();
  if (stream->tail && !stream->tail->done) context->loose.push_back(stream->tail);
  auto &all = context->streams;
  for (auto it = all.begin(); it != all.end(); ++it)
    if (*it == stream) {
      all.erase(it);
      break;
    }
  streams.remove(handle);
  return SUCCESS;
}

#define STREAM(name)                                                                             \
  auto stream = stream_of(handle);                                                               \
  if (!stream) return complain(INVALID_HANDLE, name ": not a stream of this context");            \
  if (stream->capture) {                                                                         \
    stream->capture->invalid = true;                                                             \
    return complain(CAPTURE_UNSUPPORTED, name " of a stream in capture, which it ends");          \
  }

EXPORT CUresult cuStreamSynchronize(Handle handle) {
  ENTER(CONTEXT, UNSAFE);
  STREAM("cuStreamSynchronize")
  if (!stream->handle)
    for (auto &other : current_context()->streams)
      if (!(other->flags & 1)) finish(other->tail);
  return finish(stream->tail);
}

EXPORT CUresult cuStreamQuery(Handle handle) {
  ENTER(CONTEXT, UNSAFE);
  STREAM("cuStreamQuery")
  if (!stream->tail || stream->tail->done) return SUCCESS;
  CUresult status = finish(stream->tail, 1);
  return status ? status : NOT_READY;
}

EXPORT CUresult cuStreamWaitEvent(Handle handle, Handle event_handle, unsigned flags) {
  ENTER(CONTEXT);
  auto stream = stream_of(handle);
  auto event = event_of(event_handle);
  if (!stream || !event || flags > 1)
    return complain(INVALID_HANDLE, "cuStreamWaitEvent: not a stream and an event of this context");
  if (in_live_capture(*event)) {
    auto capture = event->capture.lock();
    if (!capture) return complain(CAPTURED_EVENT, "cuStreamWaitEvent: the event belongs to an ended capture");
    if (stream->capture && stream->capture != capture) {
      capture->invalid = stream->capture->invalid = true;
      return complain(CAPTURE_MERGE, "cuStreamWaitEvent: event and stream are in two captures");
    }
    if (!stream->capture) {
      if (!stream->handle) return complain(CAPTURE_UNSUPPORTED, "the null stream cannot join a capture");
      stream->capture = capture;
      stream->origin = false;
      stream->capture_tail.clear();
    }
    std::set<size_t> both(stream->capture_tail.begin(), stream->capture_tail.end());
    both.insert(event->capture_after.begin(), event->capture_after.end());
    stream->capture_tail.assign(both.begin(), both.end());
    return SUCCESS;
  }
  if (!event->recorded) return SUCCESS;
  if (stream->capture) {
    stream->capture->invalid = true;
    return complain(CAPTURE_ISOLATION, "cuStreamWaitEvent: a captured stream cannot wait for work outside");
  }
  if (event->recorded->done) return SUCCESS;
  CUresult status = submit(stream, Work{"cuStreamWaitEvent", nullptr});
  if (!status) stream->tail->after.push_back(event->recorded);
  return status;
}

EXPORT CUresult cuStreamGetFlags(Handle handle, unsigned *out) {
  ENTER(CONTEXT);
  auto stream = stream_of(handle);
  if (!stream) return INVALID_HANDLE;
  if (!out) return INVALID_VALUE;
  *out = stream->flags;
  return SUCCESS;
}

EXPORT CUresult cuStreamGetPriority(Handle handle, int *out) {
  ENTER(CONTEXT);
  auto stream = stream_of(handle);
  if (!stream) return INVALID_HANDLE;
  if (!out) return INVALID_VALUE;
  *out = stream->priority;
  return SUCCESS;
}

// ---- events ----------------------------------------------------------------------------------------------

EXPORT CUresult cuEventCreate(Handle *out, unsigned flags) {
  ENTER(CONTEXT);
  if (!out || (flags & ~7u)) return INVALID_VALUE;
  auto event = std::make_shared<Event>();
  event->context = current_context_id();
  event->flags = flags;
  *out = events.add(event);
  return SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(Handle handle) {
  ENTER(CONTEXT);
  if (!event_of(handle)) return complain(INVALID_HANDLE, "cuEventDestroy: not an event of this context");
  events.remove(handle);
  return SUCCESS;
}

EXPORT CUresult cuEventRecord(Handle handle, Handle stream_handle) {
  ENTER(CONTEXT);
  auto event = event_of(handle);
  auto stream = stream_of(stream_handle);
  if (!event || !stream)
    return complain(INVALID_HANDLE, "cuEventRecord: not an event and a stream of this context");
  if (stream->capture) {
    if (stream->capture->invalid) return CAPTURE_INVALIDATED;
    event->in_capture = true;
    event->capture = stream->capture;
    event->capture_after = stream->capture_tail;
    event->recorded = nullptr;
    return SUCCESS;
  }
  CUresult status = submit(stream, Work{"cuEventRecord", nullptr});
  if (status) return status;
  event->in_capture = false;
  event->recorded = stream->tail;
  return SUCCESS;
}

#define EVENT(name)                                                                              \
  auto event = event_of(handle);                                                                 \
  if (!event) return complain(INVALID_HANDLE, name ": not an event of this context");             \
  if (in_live_capture(*event)) {                                                                 \
    if (auto capture = event->capture.lock()) capture->invalid = true;                           \
    return complain(CAPTURED_EVENT, name ": the event was recorded in a capture");                \
  }

EXPORT CUresult cuEventSynchronize(Handle handle) {
  ENTER(CONTEXT, UNSAFE);
  EVENT("cuEventSynchronize")
  return finish(event->recorded);
}

EXPORT CUresult cuEventQuery(Handle handle) {
  ENTER(CONTEXT, UNSAFE);
  EVENT("cuEventQuery")
  if (!event->recorded || event->recorded->done) return SUCCESS;
  CUresult status = finish(event->recorded, 1);
  return status ? status : NOT_READY;
}

static CUresult elapsed(float *out, Handle from, Handle to) {
  auto first = event_of(from), last = event_of(to);
  if (!out) return INVALID_VALUE;
  if (!first || !last || ((first->flags | last->flags) & 2) || !first->recorded || !last->recorded)
    return complain(INVALID_HANDLE, "cuEventElapsedTime: events without a time, or never recorded");
  if (!first->recorded->done || !last->recorded->done) return NOT_READY;
  *out = float(last->recorded->finished - first->recorded->finished);
  return SUCCESS;
}

EXPORT CUresult cuEventElapsedTime(float *out, Handle from, Handle to) {
  ENTER(CONTEXT);
  return elapsed(out, from, to);
}

EXPORT CUresult cuEventElapsedTime_v2(float *out, Handle from, Handle to) {
  ENTER(CONTEXT);
  return elapsed(out, from, to);
}
