// Streams and events.
#include "world.h"

#include <algorithm>

namespace fakecuda {

EXPORT int cuStreamCreate(Stream **out, unsigned flags)
{
	Call call("cuStreamCreate", true);
	*out = nullptr;
	if (call.code != OK)
		return call.code;
	if (flags != 1)
		call.w.violate(call.context, "a stream that waits for the default stream");
	Stream *s = new Stream;
	s->context = call.context;
	s->number = ++call.w.streams_made;
	if (call.w.free_who.empty()) {
		s->who = call.w.next_who++;
	} else {
		s->who = call.w.free_who.back();
		call.w.free_who.pop_back();
	}
	s->clock = call.w.host; // all that an earlier stream of the number did, the host has waited for
	s->clock.resize(std::max<size_t>(s->clock.size(), s->who + 1));
	s->random = call.w.seed * 1000003 + s->number;
	call.w.streams.insert(s);
	s->thread = std::thread([s] { world().serve(s); });
	*out = s;
	return OK;
}

// end waits for a stream's work and joins its thread.
void World::end(std::unique_lock<std::mutex> &lock, Stream *s)
{
	drain(lock, s);
	streams.erase(s);
	if (s->who < host.size() && host[s->who] >= s->clock[s->who])
		free_who.push_back(s->who);
	else
		lost_who.push_back({s->who, s->clock[s->who]});
	s->closing = true;
	changed.notify_all();
	lock.unlock();
	s->thread.join();
	lock.lock();
	delete s;
}

EXPORT int cuStreamDestroy_v2(Stream *s)
{
	Call call("cuStreamDestroy", true);
	if (!call.has(call.w.streams, s, "stream"))
		return call.code != OK ? call.code : call.refuse(INVALID_HANDLE);
	call.w.end(call.lock, s);
	return call.code;
}

EXPORT int cuStreamSynchronize(Stream *s)
{
	Call call("cuStreamSynchronize", true);
	if (!call.has(call.w.streams, s, "stream"))
		return call.code != OK ? call.code : call.refuse(INVALID_HANDLE);
	Clock reached = s->clock;
	call.w.drain(call.lock, s);
	join(call.w.host, reached);
	return call.code != OK ? call.code : call.context->broken;
}

EXPORT int cuStreamWaitEvent(Stream *s, Event *e, unsigned)
{
	Call call("cuStreamWaitEvent", true);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream") || !call.has(call.w.events, e, "event"))
		return call.refuse(INVALID_HANDLE);
	call.w.begin(s);
	join(s->clock, e->clock);
	Op op;
	op.wait = e;
	op.version = e->recorded;
	call.w.push(s, std::move(op));
	return OK;
}

EXPORT int cuEventCreate(Event **out, unsigned flags)
{
	Call call("cuEventCreate", true);
	*out = nullptr;
	if (call.code != OK)
		return call.code;
	Event *e = new Event;
	e->context = call.context;
	e->timed = (flags & 2) == 0;
	call.w.events.insert(e);
	*out = e;
	return OK;
}

EXPORT int cuEventDestroy_v2(Event *e)
{
	Call call("cuEventDestroy", true);
	if (!call.has(call.w.events, e, "event"))
		return call.code != OK ? call.code : call.refuse(INVALID_HANDLE);
	call.w.events.erase(e);
	call.w.drain(call.lock, call.context); // ops that are queued may use it
	delete e;
	return call.code;
}

EXPORT int cuEventRecord(Event *e, Stream *s)
{
	Call call("cuEventRecord", true);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream") || !call.has(call.w.events, e, "event"))
		return call.refuse(INVALID_HANDLE);
	call.w.begin(s);
	e->recorded++;
	e->clock = s->clock;
	Op op;
	op.record = e;
	op.version = e->recorded;
	call.w.push(s, std::move(op));
	return OK;
}

EXPORT int cuEventQuery(Event *e)
{
	Call call("cuEventQuery", true);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.events, e, "event"))
		return call.refuse(INVALID_HANDLE);
	if (e->completed < e->recorded)
		return NOT_READY;
	join(call.w.host, e->clock);
	return OK;
}

EXPORT int cuEventElapsedTime(float *milliseconds, Event *from, Event *to)
{
	Call call("cuEventElapsedTime", true);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.events, from, "event") || !call.has(call.w.events, to, "event"))
		return call.refuse(INVALID_HANDLE);
	if (!from->timed || !to->timed || from->recorded == 0 || to->recorded == 0)
		return INVALID_HANDLE;
	if (from->completed < from->recorded || to->completed < to->recorded)
		return NOT_READY;
	*milliseconds = (to->time - from->time) / 1e6f;
	return OK;
}

EXPORT int cuEventSynchronize(Event *e)
{
	Call call("cuEventSynchronize", true);
	if (!call.has(call.w.events, e, "event"))
		return call.code != OK ? call.code : call.refuse(INVALID_HANDLE);
	uint64_t version = e->recorded;
	Clock reached = e->clock;
	call.w.changed.wait(call.lock, [&] { return e->completed >= version; });
	join(call.w.host, reached);
	return call.code != OK ? call.code : call.context->broken;
}

} // namespace fakecuda
