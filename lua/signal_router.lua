redis.register_function('penstock_signal_router', function(keys, args) return Call.run('signal_router', keys, args) end)
